//! The walls around the sentry itself, for the day on which a guest has taken it over. Each is added where the host
//! grants it, and told: `namespaces` (and the guardian that outlives it), `landlock`, `capabilities`, `filter` (seccomp).
//! `skerry_confine::cgroup` has the host hold the sandbox's limits.
//!
//! Order: cgroups are made first; namespaces before anything else (they need a fork); Landlock before the zygote (whose processes the sentry could
//! not reach from inside a newer domain); capabilities and filter last, before the first thread.

pub mod capabilities;
pub mod filter;
pub mod landlock;
pub mod namespaces;
