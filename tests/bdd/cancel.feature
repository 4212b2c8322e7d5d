Feature: Cancel
  What nobody wants any more costs nothing: the slot is free at once, before the first token as after it.

  Background:
    Given an engine "gpu0" with 1 slot that serves "haiku"

  Scenario: A running task is ended, twice is as good as once
    Given llama-orch is up
    And Ann reads an answer of 400 tokens
    When Ann cancels
    And Ann cancels again
    Then Ann's stream ends as canceled
    And the slot of "gpu0" is free again

  Scenario: A waiting task is ended and never starts
    Given llama-orch is up
    And Ann reads an answer of 400 tokens
    And Ben waits as batch for 4 tokens
    When Ben cancels
    Then Ben's task is canceled
    And Ben's stream never started
    When Ann cancels
    Then the slot of "gpu0" is free again

  Scenario: A client that goes while it reads gives its slot back
    Given llama-orch is up
    And Ann reads an answer of 400 tokens
    When Ann hangs up
    Then Ann's task is canceled
    And the slot of "gpu0" is free again

  Scenario: A client that goes before the first token gives its slot back
    Given llama-orch is up
    And the engine "gpu0" thinks for a minute before it speaks
    And Ann waits for the first token
    When Ann hangs up
    Then Ann's task is canceled
    And the slot of "gpu0" is free again

  Scenario: A batch task goes on without a reader
    Given llama-orch is up
    When Ann asks as batch for 8 tokens
    Then Ann's task is done
    And Ann gets 8 tokens
