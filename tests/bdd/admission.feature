Feature: Admission
  A client learns at once whether its task is taken, where it stands and when it will start, and waits for nobody else's
  model.

  Scenario: A task is told its place and when it will start
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And llama-orch is up
    And Ann reads an answer of 400 tokens
    When Ben asks as batch for 4 tokens
    Then the answer is 202
    And Ben has place 0 and a predicted start
    And Ben waits

  Scenario: Who sits in front of the screen goes before what may take all night
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And llama-orch is up
    And Ann reads an answer of 400 tokens
    And Ben waits as batch for 4 tokens
    And Cleo waits as batch for 4 tokens
    When Dora asks as interactive for 4 tokens
    And Ann cancels
    Then Dora was answered before Ben
    And Ben was answered before Cleo

  Scenario: Nobody starves behind another model
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And an engine "gpu1" with 1 slot that serves "sonnet"
    And llama-orch is up
    And Ann reads an answer of 400 tokens
    And Ben waits as interactive for 400 tokens
    When Cleo asks for 4 tokens of "sonnet"
    Then Cleo is answered
    And Ben waits

  Scenario: A misspelt field is named
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And llama-orch is up
    When Ann sends the field "promt"
    Then the refusal is 400 INVALID_PARAMS
    And it says "did you mean 'prompt'?"

  Scenario: A prompt that cannot fit is refused with the numbers
    Given a real llama.cpp server
    And llama-orch is up
    When Ann asks as interactive for 600 tokens
    Then the refusal is 400 INVALID_PARAMS
    And it says "exceed the context of 512"
    And it says "ask for at most"

  Scenario: The same task sent twice runs once
    Given an engine "gpu0" with 1 slot that serves "haiku"
    And llama-orch is up
    When Ann sends the task "poem-1" twice
    Then both answers are the same
    And the engine of "gpu0" ran 1 task
