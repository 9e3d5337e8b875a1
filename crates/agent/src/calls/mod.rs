//! Which system calls a program may make of the host's kernel: decision lists, one for each call, which the host holds as a
//! seccomp filter (`program`) and the agent looks at again when it is told of a denial. `profile` is each engine's own list.

mod profile;
mod program;

pub use profile::{Instead, Profile, Sockets, ATTRIBUTES, ON_A_PROCESS, ON_SOME_PROCESSES, SET_ID};

use crate::failure;
use skerry_abi::calls::{number, NAMES};
use skerry_control::{Action, Argument, Calls, Failure, FailureKind, Operator};
use std::collections::BTreeMap;

/// The first entry whose conditions all hold decides; the last one has none.
type Decisions = Vec<(Vec<Argument>, Action)>;

/// Means "there is no such call", which programs try and do without: never told.
const UNKNOWN: Action = Action::Errno(libc::ENOSYS as u16);

/// What is decided of each call; of calls that no table knows: `UNKNOWN`.
pub struct Filter {
    decisions: BTreeMap<u32, Decisions>,
    /// Denials are left to the agent, which tells of them; else the host denies by itself.
    told: program::Program,
    silent: program::Program,
}

impl Filter {
    /// A profile, narrowed by `calls`. Of calls that are `watched` the agent is asked where they are allowed, too.
    pub fn compile(profile: &Profile, calls: Option<&Calls>, watched: &[libc::c_long]) -> Result<Filter, Failure> {
        let mut decisions = profile.decisions();
        if let Some(calls) = calls {
            narrow(&mut decisions, calls)?;
        }
        let told = program::Program::compile(&decisions, true, watched).ok_or_else(too_long)?;
        let silent = program::Program::compile(&decisions, false, &[]).ok_or_else(too_long)?;
        Ok(Filter { decisions, told, silent })
    }

    /// What is decided of one call.
    pub fn decide(&self, number: u32, arguments: &[u64; 6]) -> Action {
        let Some(decisions) = self.decisions.get(&number) else { return UNKNOWN };
        let held = decisions.iter().find(|(conditions, _)| conditions.iter().all(|condition| holds(condition, arguments)));
        held.map_or(UNKNOWN, |(_, action)| *action)
    }

    /// The filter as the host takes it, with the denials told to a listener or not.
    pub fn instructions(&self, told: bool) -> &[u64] {
        let program = if told { &self.told } else { &self.silent };
        &program.0
    }
}

fn too_long() -> Failure {
    failure(FailureKind::Unenforceable, "calls: the rules are more than a filter of the host can hold; merge some")
}

fn holds(condition: &Argument, arguments: &[u64; 6]) -> bool {
    let found = arguments.get(usize::from(condition.index)).map_or(0, |argument| argument & condition.mask);
    match condition.operator {
        Operator::Equal => found == condition.value,
        Operator::NotEqual => found != condition.value,
        Operator::Less => found < condition.value,
        Operator::LessOrEqual => found <= condition.value,
        Operator::Greater => found > condition.value,
        Operator::GreaterOrEqual => found >= condition.value,
    }
}

/// Of two that decide about the same call the stricter counts, whichever list it is in.
fn narrow(decisions: &mut BTreeMap<u32, Decisions>, calls: &Calls) -> Result<(), Failure> {
    let mut wanted: BTreeMap<u32, Decisions> = BTreeMap::new();
    for rule in &calls.rules {
        check(rule.action)?;
        if let Some(wrong) = rule.arguments.iter().find(|argument| argument.index > 5) {
            return Err(failure(FailureKind::Invalid, format!("calls: there is no argument {}: 0 to 5", wrong.index)));
        }
        for name in &rule.calls {
            let number = number(name).or_else(|| name.parse().ok().filter(|known| decisions.contains_key(known)));
            let number =
                number.ok_or_else(|| failure(FailureKind::Invalid, format!("calls: there is no system call {name:?}")))?;
            wanted.entry(number).or_default().push((rule.arguments.clone(), rule.action));
        }
    }
    check(calls.default)?;
    for (number, own) in decisions.iter_mut() {
        let mut list = wanted.remove(number).unwrap_or_default();
        list.push((Vec::new(), calls.default));
        let mut both = Decisions::new();
        for (conditions, action) in list {
            for (more, own) in own.iter() {
                both.push((conditions.iter().chain(more).copied().collect(), action.max_of(*own)));
                if more.is_empty() {
                    break;
                }
            }
            if conditions.is_empty() {
                break;
            }
        }
        *own = both;
    }
    Ok(())
}

fn check(action: Action) -> Result<(), Failure> {
    match action {
        Action::Errno(number) if !(1..4096).contains(&number) => {
            Err(failure(FailureKind::Invalid, format!("calls: {number} is not an errno (1 to 4095)")))
        }
        _ => Ok(()),
    }
}

trait Strictness {
    fn max_of(self, other: Action) -> Action;
}

impl Strictness for Action {
    /// The stricter; of two errnos the first.
    fn max_of(self, other: Action) -> Action {
        match (self, other) {
            (Action::Errno(_), Action::Errno(_)) => self,
            _ => std::cmp::max(self, other),
        }
    }
}

/// The name of a call, or its number where it has none.
pub fn name_of(number: i32) -> String {
    u32::try_from(number).ok().and_then(skerry_abi::calls::name).map_or_else(|| number.to_string(), str::to_owned)
}

/// Every call that has a name is unconditionally this.
fn every(action: Action) -> BTreeMap<u32, Decisions> {
    NAMES.iter().map(|(number, _)| (*number, vec![(Vec::new(), action)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_control::CallRule;

    fn rule(names: &[&str], arguments: &[Argument], action: Action) -> CallRule {
        CallRule { calls: names.iter().map(|name| name.to_string()).collect(), arguments: arguments.to_vec(), action }
    }

    #[test]
    fn rules_narrow_the_profile_and_never_widen_it() {
        let one = Argument { index: 0, mask: 0xffff_ffff, operator: Operator::Equal, value: 1 };
        let calls = Calls {
            default: Action::Allow,
            rules: vec![
                rule(&["write"], &[one], Action::Log),
                rule(&["write"], &[], Action::Errno(5)),
                rule(&["mount", "ptrace"], &[], Action::Allow),
                rule(&["getpid"], &[], Action::Kill),
            ],
        };
        let filter = Filter::compile(&Profile::namespace(), Some(&calls), &[]).unwrap();
        let decide = |name: &str, first: u64| filter.decide(number(name).unwrap(), &[first, 0, 0, 0, 0, 0]);
        assert_eq!(decide("write", 1), Action::Log);
        assert_eq!(decide("write", 1 | 1 << 40), Action::Log, "an int's upper half counts for nothing");
        assert_eq!(decide("write", 2), Action::Errno(5));
        assert_eq!(decide("mount", 0), Action::Errno(libc::EPERM as u16));
        assert_eq!(decide("ptrace", 0), Action::Allow);
        assert_eq!(decide("getpid", 0), Action::Kill);
        assert_eq!(filter.decide(9999, &[0; 6]), UNKNOWN);
        let wrong =
            |rules| Filter::compile(&Profile::namespace(), Some(&Calls { default: Action::Allow, rules }), &[]).is_err();
        assert!(wrong(vec![rule(&["nosuch"], &[], Action::Allow)]));
        assert!(wrong(vec![rule(&["read"], &[Argument { index: 6, ..one }], Action::Allow)]));
        assert!(wrong(vec![rule(&["read"], &[], Action::Errno(0))]));
    }

    #[test]
    fn the_program_decides_as_the_lists_do() {
        let mut random = 1u64;
        let mut next = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            random >> 20
        };
        let operators = [
            Operator::Equal,
            Operator::NotEqual,
            Operator::Less,
            Operator::LessOrEqual,
            Operator::Greater,
            Operator::GreaterOrEqual,
        ];
        let values = [0, 1, 2, u32::MAX as u64 - 1, u32::MAX as u64, 1 << 32, (1 << 32) + 1, 5 << 32, u64::MAX];
        let masks = [u64::MAX, 0xffff_ffff, 3, 0xf_0000_0001];
        let mut rules = Vec::new();
        for number in 0..300u64 {
            let conditions: Vec<Argument> = (0..next() % 4)
                .map(|_| Argument {
                    index: (next() % 6) as u8,
                    mask: masks[next() as usize % masks.len()],
                    operator: operators[next() as usize % operators.len()],
                    value: values[next() as usize % values.len()],
                })
                .collect();
            let action = [Action::Allow, Action::Log, Action::Errno(7), Action::Kill][next() as usize % 4];
            rules.push(CallRule { calls: vec![(number % 150).to_string()], arguments: conditions, action });
        }
        let filter = Filter::compile(&Profile::namespace(), Some(&Calls { default: Action::Allow, rules }), &[]).unwrap();
        for number in (0..480).chain([100_000, 0x4000_0001]) {
            for _ in 0..20 {
                let arguments = [0; 6].map(|_: u64| values[next() as usize % values.len()]);
                let decided = if number >= 0x4000_0000 { UNKNOWN } else { filter.decide(number, &arguments) };
                let expected = program::code_of(decided, false);
                assert_eq!(program::run(filter.instructions(false), number, &arguments), expected, "{number} {arguments:x?}");
            }
        }
    }
}
