//! The system call table: ONE row per call. Documents and traces are made from it.

use super::argument::serve;
use crate::{Context, Result};

/// Where a call is served (ARCHITECTURE.md, "The four classes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Could be answered in the stub without leaving the process.
    Local,
    /// Carried out by the host kernel in the application's process, arguments checked.
    Host,
    /// On open regular files.
    Data,
    /// In the guest kernel.
    Kernel,
}

/// How much of the man page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Full,
    /// See the row's note.
    Partial,
    /// Always an error, as on a Linux without the feature.
    Refused,
}

/// One row.
pub struct Row {
    pub number: u64,
    pub name: &'static str,
    pub class: Class,
    pub support: Support,
    pub note: &'static str,
    pub handler: fn(&mut Context, &[u64; 6]) -> Result<u64>,
}

macro_rules! rows {
    ($( $number:literal $name:ident $handler:path, $class:ident $support:ident $note:literal; )*) => {
        /// All rows, by number.
        pub static ROWS: &[Row] = &[$(Row {
            number: $number,
            name: stringify!($name),
            class: Class::$class,
            support: Support::$support,
            note: $note,
            handler: |context, registers| serve($handler, context, registers),
        }),*];
    };
}

// number name handler, class support note;   (keep the order of numbers: a test checks it)
rows! {
}

/// The row of a call number.
pub fn find(number: u64) -> Option<&'static Row> {
    ROWS.binary_search_by_key(&number, |row| row.number).ok().map(|index| &ROWS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_unique() {
        assert!(ROWS.windows(2).all(|pair| pair[0].number < pair[1].number));
    }
}
