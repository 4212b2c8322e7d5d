"""orchestratord: admits tasks, queues them within bounds, places them on replicas, and relays their tokens.

Decides who runs where and when. Never starts, stops or provisions an engine: pool-managerd does, and says over a Unix
socket which replicas are ready. Read it in the order a task takes: ``http.tasks``, ``admission``, ``backlog``,
``dispatch``, ``relay``, ``stream_log``, ``http.stream``.
"""
