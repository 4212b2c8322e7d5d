Feature: Who may talk
  Nothing is open to the LAN by accident, and a token is never written down.

  Scenario: An address of the LAN without a token does not start
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And it is to listen on "0.0.0.0" without a token
    When llama-orch is started
    Then it ends with status 78 and says what to set

  Scenario: Only the right token opens anything
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And llama-orch is up
    When Eve asks without a token
    Then the refusal is 401 MISSING_TOKEN
    When Eve asks with the token "guess"
    Then the refusal is 401 BAD_TOKEN
    When Eve asks whether the daemon is alive
    Then the answer is 200
    When Ann asks as interactive for 4 tokens
    Then Ann is answered
    And the log names the token by its fingerprint alone
