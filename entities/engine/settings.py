"""Every bound of the engine, named and defaulted in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Knobs of one host's engine. Times in seconds."""

    mailbox_max: int = 10_000
    """Messages waiting for one entity; beyond it they are refused as busy, before anything is acknowledged."""
    hops_max: int = 10_000
    """Messages of entities of which each caused the next one: beyond it they loop, and end as dead letters."""
    idle_s: float = 60.0
    """An entity without work leaves memory after this time."""
    activations_max: int = 200_000
    """Beyond it, the longest idle leave at once."""
    commit_entities_max: int = 1_000
    """Entities in one group commit."""
    turns_per_tick: int = 500
    """Turns between two looks at the network."""
    load_max: int = 500
    """Entities loaded by one query."""
    inbox_max: int = 1_000
    """Stored messages of one entity read by one query."""
    mail_poll_s: float = 2.0
    """How often the store is asked for messages whose wake-up got lost."""
    timer_window_s: float = 30.0
    """How far ahead reminders are read into memory."""
    timer_batch: int = 5_000
    """Reminders read by one query, and fired but not yet committed at any time."""
    activities_max: int = 200
    """Activity attempts under way at once on this host."""
    activity_threads: int = 16
    """Threads for `def` activities."""
    heartbeat_note_s: float = 1.0
    """Heartbeats of one attempt are written down at most this often."""
    rehydrate_per_s: float = 2_000.0
    """Entities activated per second after gaining a shard."""
    handler_grace_s: float = 5.0
    """How long a handler past its time limit may take to accept its cancellation before it is abandoned."""
    journal_warn_entries: int = 2_000
    """A run with a longer journal says so in the log and in what it waits for: it should continue_as_new."""
    journal_warn_bytes: int = 1024 * 1024
    journal_max_entries: int = 60_000
    """A run with a longer journal fails: rebuilding it would hold up its host (50 to 90 ms for each 1,000 entries)."""
    journal_max_bytes: int = 64 * 1024 * 1024
    unknown_handler_s: float = 600.0
    """How long a stored message or a reminder waits for code that has its handler, as a rolling upgrade brings it; then
    it is a dead letter. What its sender sent later waits with it."""
    history_retention_s: float = 24 * 3600.0
    """How long outcomes are kept: the horizon of de-duplication."""
    prune_every_s: float = 60.0
    keep_state_bytes: int = 8_192
    """History keeps the state that a turn left if it is no larger than this; larger ones only now and then."""
    keep_large_state_every_s: float = 60.0
    """How often a larger state of one entity is kept."""
    keep_input_bytes: int = 4_096
    """Journals note the arguments of activities and calls up to this size each, for people to look at."""
    evict_after_every_turn: bool = False
    """Hostile configuration for tests: nothing stays in memory longer than its commit."""
