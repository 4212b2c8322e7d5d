Feature: Streaming
  Tokens come as the engine makes them, in order and without a gap, and nothing comes after the end.

  Scenario: A stream starts, brings its tokens and ends once
    Given a real llama.cpp server
    And llama-orch is up
    When Ann asks as interactive for 12 tokens
    Then Ann's stream is started, tokens and one end

  Scenario: The same seed gives the same text
    Given a real llama.cpp server
    And llama-orch is up
    When Ann asks with seed 5
    And Ben asks with seed 5
    And Cleo asks with seed 6
    Then Ann and Ben read the same text
    And Ann and Cleo read different texts

  Scenario: A reader that lost its connection misses nothing
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And who is gone for less than a minute has not left
    And llama-orch is up
    And Ann reads an answer of 30 tokens
    When Ann hangs up
    And Ann comes back behind the first token
    Then Ann has missed nothing of 30 tokens

  Scenario: Readers who come late read what the first one read
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And llama-orch is up
    And Ann reads an answer of 30 tokens
    When two others read Ann's stream as well
    Then all of them read the same bytes

  Scenario: An engine that dies is told at once, is not shown as running, and comes back by itself
    Given a real llama.cpp server
    And llama-orch is up
    When somebody kills the engine
    Then the pool was shown as not ready
    And the pool comes back
    When Ann asks as interactive for 4 tokens
    Then Ann is answered

  Scenario: An engine that dies in the middle of an answer ends it with an error that says to try again
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And llama-orch is up
    And Ann reads an answer of 400 tokens
    When somebody kills the engine "gpu0"
    Then Ann's stream ends in WORKER_RESET, to be tried again
