Feature: Artifacts
  What was asked, who answered and what was said can be looked up afterwards, also where it went wrong, and no secret is
  in it.

  Scenario: A task leaves a record of who said what
    Given a real llama.cpp server
    And llama-orch is up
    When Ann reads an answer of 8 tokens
    Then Ann's record says what she asked and who answered
    And Ann's record has the text that she read

  Scenario: A task that failed leaves one too
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And llama-orch is up
    And Ann reads an answer of 400 tokens
    When somebody kills the engine "gpu0"
    Then Ann's record says that it failed with WORKER_RESET

  Scenario: The same content has the same name, whoever brings it
    Given a real llama.cpp server
    And llama-orch is up
    When Ann keeps the plan "read, then write"
    And Ben keeps the plan "read, then write"
    Then both were given the same name
    And what is kept under it is the plan "read, then write"

  Scenario: The token is in no record
    Given a real llama.cpp server
    And llama-orch is up
    When Ann asks with the token in her prompt
    Then Ann's record says that something was taken out
    And the token is in no receipt
