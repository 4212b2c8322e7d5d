Feature: The catalog of models
  An operator sees which models are here, takes one out of use and brings it back, and trusts nothing that was spoiled.

  Background:
    Given llama-orch serves the model "haiku"

  Scenario: A model is registered, verified and forgotten
    Given a model file "epic"
    When the operator registers the file "epic"
    Then the answer is 201
    And the catalog shows "epic" as Active
    When the operator has "epic" verified
    Then its verification ends as ok
    And the metric of verifications counts 1 ok
    When the operator deletes "epic"
    Then the answer is 204
    And the catalog does not show "epic"
    And the file "epic" is still there

  Scenario: A model that a pool serves is not deleted
    When the operator deletes "haiku"
    Then the answer is 409
    And it says that "pool trial" needs it
    And the catalog shows "haiku" as Active

  Scenario: A retired model gets no new task, and its engine goes on until it is restarted
    When the operator makes "haiku" Retired
    Then a task is refused with MODEL_UNAVAILABLE
    And the pool is ready and says that its model is Retired
    When the operator makes "haiku" Active
    Then a task is answered

  Scenario: A spoiled model is found, taken out of use and not started again
    When somebody spoils the file "haiku"
    And the operator has "haiku" verified
    Then its verification ends as failed
    And the catalog shows "haiku" as Retired
    And the file "haiku" is still there
    When the manager is restarted
    Then the pool fails because its model is Retired

  Scenario: A damaged catalog is rebuilt and said
    When the manager is stopped
    And somebody damages the catalog
    And the manager is started
    Then the catalog shows "haiku" as Active
    And the pools' page says that the catalog was rebuilt
