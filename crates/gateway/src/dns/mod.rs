//! The guest's DNS server: questions go on to the host's resolvers, where the policy allows the name, and what is answered for an
//! allowed name may be reached for a while.

mod forward;
mod message;
mod name;
mod stream;

pub use forward::Forwarder;
pub use name::{Name, Pattern};
pub use stream::Stream;

pub const PORT: u16 = 53;

use crate::context::Context;
use message::{refusal, Asked, Question, Rcode};

/// A question that may go on; else what it is answered with, if it is anything.
///
/// A name that is not allowed is REFUSED: the server will not say (RFC 1035, "for policy reasons"). NXDOMAIN would say that there is
/// no such name, nor any below it, and programs may keep that.
fn check(message: &[u8], context: &mut Context) -> Result<Question, Option<Vec<u8>>> {
    match Question::parse(message) {
        Asked::Question(question) => match context.policy.check_name(&question.name) {
            Ok(()) => Ok(question),
            Err(clause) => {
                context.reports.denied_name(&question.name, clause, context.now);
                Err(Some(refusal(message, Rcode::Refused)))
            }
        },
        Asked::Wrong(why) => Err(Some(refusal(message, why))),
        Asked::Nothing => Err(None),
    }
}

/// What an allowed name's answer says may be reached.
fn learn(question: &Question, answer: &[u8], context: &mut Context) {
    if context.policy.learns() {
        for (address, seconds) in question.addresses(answer) {
            context.policy.learn(address, seconds, context.now);
        }
    }
}
