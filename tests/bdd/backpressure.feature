Feature: Backpressure
  A queue has an end, and whoever finds it full is told when to come back.

  Scenario: A full queue says when to come back, and then there is room
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And a queue for 1 task
    And llama-orch is up
    And Ann reads an answer of 400 tokens
    And Ben waits as interactive for 4 tokens
    When Cleo asks as interactive for 4 tokens
    Then the refusal is 429 ADMISSION_REJECT
    And it names the policy "reject" and a time to come back
    When Ann cancels
    Then Ben is answered
    When Cleo asks as interactive for 4 tokens
    Then Cleo is answered

  Scenario: Where the newest counts, the oldest batch task gives way and is told so
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And a queue for 1 task
    And a full queue drops the task that was used least recently
    And llama-orch is up
    And Ann reads an answer of 400 tokens
    And Ben waits as batch for 4 tokens
    When Cleo asks as interactive for 4 tokens
    Then the answer is 202
    And Ben is told QUEUE_FULL_DROP_LRU

  Scenario: A deadline that cannot be met is refused at once
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And llama-orch is up
    And Ann reads an answer of 400 tokens
    When Ben asks for 4 tokens within 100 ms
    Then the refusal is 429 ADMISSION_REJECT
    And it names the policy "deadline" and a time to come back

  Scenario: The capabilities show the queue as it is
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And a queue for 3 tasks
    And llama-orch is up
    And Ann reads an answer of 400 tokens
    When Ben asks as batch for 4 tokens
    Then the capabilities show 1 of 3 places taken
