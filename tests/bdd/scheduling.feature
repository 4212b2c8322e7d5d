Feature: Mixed GPUs
  A card of 24 GB and one of 12 GB serve one model, and nobody says which task goes where. What is gone is said, and
  nothing ever moves to the CPU.

  Background:
    Given a card of 24 GB and one of 12 GB that serve "haiku"
    And llama-orch is up

  Scenario: The card with the most free memory comes first, then the other, then the queue
    When Ann reads an answer of 400 tokens
    And Ben reads an answer of 400 tokens
    And Cleo asks as interactive for 4 tokens
    Then Ann is on "large"
    And Ben is on "small"
    And Cleo waits
    When Ben cancels
    Then Cleo is answered
    And Cleo is on "small"

  Scenario: A card that falls off the bus is said, and its engine ends; the other card goes on
    When the card of 24 GB falls off the bus
    Then the pool "large" is quarantined because of gpu_lost
    When Ann asks as interactive for 4 tokens
    Then Ann is answered
    And Ann is on "small"

  Scenario: A pin to a pool that is gone is an error, and never another pool
    When the card of 24 GB falls off the bus
    Then the pool "large" is quarantined because of gpu_lost
    When Ann asks for 4 tokens on "large" alone
    Then the refusal is 503 POOL_UNREADY
    When Ann asks for 4 tokens on "medium" alone
    Then the refusal is 503 POOL_UNAVAILABLE

  Scenario: When the card is back, so is its pool
    When the card of 24 GB falls off the bus
    Then the pool "large" is quarantined because of gpu_lost
    When the card of 24 GB is back
    Then the pool "large" is ready
