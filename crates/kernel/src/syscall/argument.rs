//! Registers to typed arguments, and results to registers.

use crate::{Context, Result};

/// Something that a handler can take: made from one register, EINVAL (or what Linux gives) where it is not valid.
pub trait Argument: Sized {
    fn from_register(register: u64) -> Result<Self>;
}

macro_rules! truncating {
    ($($type:ty),*) => { $(impl Argument for $type {
        fn from_register(register: u64) -> Result<Self> {
            Ok(register as $type)
        }
    })* };
}
truncating!(i32, u32, i64, u64, usize, u16);

/// A guest address; may be null, may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAddress(pub u64);

impl UserAddress {
    pub fn is_null(self) -> bool {
        self.0 == 0
    }
    /// `None` for null.
    pub fn non_null(self) -> Option<u64> {
        (self.0 != 0).then_some(self.0)
    }
}

impl Argument for UserAddress {
    fn from_register(register: u64) -> Result<Self> {
        Ok(UserAddress(register))
    }
}

/// What a handler may return.
pub trait ReturnValue {
    fn into_register(self) -> u64;
}

impl ReturnValue for () {
    fn into_register(self) -> u64 {
        0
    }
}

macro_rules! returned {
    ($($type:ty),*) => { $(impl ReturnValue for $type {
        fn into_register(self) -> u64 {
            self as u64
        }
    })* };
}
returned!(i32, u32, i64, u64, usize);

/// A function that serves a call.
pub trait Handler<Arguments> {
    fn serve(&self, context: &mut Context, registers: &[u64; 6]) -> Result<u64>;
}

macro_rules! handler {
    ($($name:ident $index:tt),*) => {
        impl<Function, Returned, $($name),*> Handler<($($name,)*)> for Function
        where
            Function: Fn(&mut Context, $($name),*) -> Result<Returned>,
            Returned: ReturnValue,
            $($name: Argument),*
        {
            fn serve(&self, context: &mut Context, _registers: &[u64; 6]) -> Result<u64> {
                self(context, $($name::from_register(_registers[$index])?),*).map(ReturnValue::into_register)
            }
        }
    };
}
handler!();
handler!(A 0);
handler!(A 0, B 1);
handler!(A 0, B 1, C 2);
handler!(A 0, B 1, C 2, D 3);
handler!(A 0, B 1, C 2, D 3, E 4);
handler!(A 0, B 1, C 2, D 3, E 4, F 5);

/// Calls `handler` with typed arguments (used by the table's rows).
pub(super) fn serve<Arguments>(handler: impl Handler<Arguments>, context: &mut Context, registers: &[u64; 6]) -> Result<u64> {
    handler.serve(context, registers)
}

/// Turns a bitflags type into an argument whose unknown bits are EINVAL.
#[macro_export]
macro_rules! flags_argument {
    ($($type:ty),* $(,)?) => { $(impl $crate::syscall::Argument for $type {
        fn from_register(register: u64) -> $crate::Result<Self> {
            <$type>::from_bits(register as _).ok_or($crate::Errno::EINVAL)
        }
    })* };
}

impl<T: Argument> Argument for Option<T> {
    fn from_register(register: u64) -> Result<Self> {
        if register == 0 {
            Ok(None)
        } else {
            T::from_register(register).map(Some)
        }
    }
}
