Feature: Sessions
  Turns that belong together find what the engine still knows of the conversation, for a while and within a budget; what
  is said about that is the engine's own word.

  Scenario: The second turn of a conversation finds its cache
    Given a real llama.cpp server
    And llama-orch is up
    When Ann takes a turn in "talk"
    And Ann takes a turn in "talk"
    Then the session "talk" has had 2 of 8 turns and is warm
    And the session "talk" holds some of the cache of "trial-0"

  Scenario: A conversation whose engine died goes on, and says that it begins cold
    Given a real llama.cpp server
    And llama-orch is up
    When Ann takes a turn in "talk"
    And somebody kills the engine
    Then the pool comes back
    When Ann takes a turn in "talk"
    Then Ann's turn began cold

  Scenario: A conversation has an end
    Given a real llama.cpp server
    And a session has 2 turns
    And llama-orch is up
    When Ann takes a turn in "talk"
    And Ann takes a turn in "talk"
    And Ann asks for a turn in "talk"
    Then the refusal is 429 BUDGET_EXHAUSTED
    And it names "session_turns"
    When Ann asks for a turn in "another talk"
    Then the refusal is 400 INVALID_PARAMS
    When Ann asks for a turn in "another-talk"
    Then the answer is 202

  Scenario: A budget is shown while it lasts, and holds before anything is queued
    Given a real llama.cpp server
    And a session has 40 tokens
    And llama-orch is up
    When Ann takes a turn in "talk"
    Then the session "talk" has less than 40 tokens left
    When Ann asks for 20 tokens more in "talk"
    Then the refusal is 429 BUDGET_EXHAUSTED
    And it names "session_tokens"

  Scenario: Who ends a session frees its slot
    Given a real llama.cpp server
    And llama-orch is up
    When Ann takes a turn in "talk"
    And Ann ends the session "talk"
    Then the answer is 204
    And there is no session "talk"
