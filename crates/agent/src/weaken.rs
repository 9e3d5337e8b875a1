//! Tests that a wall can fail: parts of it that are taken out on purpose, by a word of the command line (`--weaken`), which the
//! Python side gives where SKERRY_TEST_WEAKEN asks for it, and says so aloud. Nothing that comes through the control protocol, a
//! policy or a guest gets here.

pub const OPTION: &str = "--weaken";

/// What can be taken out.
pub const PARTS: &[&str] = &[
    // No filter of system calls.
    "seccomp",
    // No domain of Landlock's.
    "landlock",
    // Programs of root keep all that the agent was started with.
    "capabilities",
    // Root inside is root outside.
    "user_namespace",
    // Nothing of /proc and /sys is covered or read-only.
    "masks",
    // What the caller has left open stays so.
    "descriptors",
    // The caller's keys are ours.
    "keyring",
    // Symbolic links on the way to what is granted are followed.
    "links",
];

/// The list in the command line, if there is one.
pub fn list() -> Option<String> {
    let mut words = std::env::args().skip_while(|word| word != OPTION);
    words.next().and_then(|_| words.next())
}

/// Whether a part is taken out.
pub fn is_out(part: &str) -> bool {
    debug_assert!(PARTS.contains(&part));
    list().is_some_and(|list| list.split(',').any(|word| word == part))
}

/// Why a layer is missing.
pub const REASON: &str = "taken out on purpose, for a test (SKERRY_TEST_WEAKEN): this is no sandbox";
