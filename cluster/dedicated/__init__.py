"""`hosting=Dedicated(...)`: each active instance in a Ray actor of its own, with its own resources.

The host that owns the entity's shard stays the one that commits, fires reminders and takes messages in. The actor runs
the same engine for one entity, on a store that asks its host (`remote_store`): so every promise rests on the same
group commit and the same fence. Host and actor talk by the same link protocol as clients and hosts (`cluster.wire`).

Failures
* The actor dies: its host sends what was unanswered to a new one, marked as repeats; the new one starts from the store.
* The host dies: its actors die with it (they are not detached); the shard's next owner makes new ones on demand.
* A cut-off actor cannot commit without its host, and its host relays no answer to a query once its own lease has ended.
"""
