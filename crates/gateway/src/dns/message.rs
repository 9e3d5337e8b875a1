//! Messages of DNS, hostile both ways: a question becomes a checked one, an answer the addresses that it gives for its name.

use super::name::Name;
use smoltcp::wire::{DnsFlags, DnsOpcode, DnsPacket, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData};
use std::net::IpAddr;

const HEADER: usize = 12;
/// Of records that are looked at, and of names that stand for others in a row.
const MOST_RECORDS: u16 = 256;
const MOST_ALIASES: usize = 16;
/// In the third byte of a header.
const TRUNCATED: u8 = 2;

/// One question, and no answer yet.
#[derive(Clone, Debug)]
pub struct Question {
    pub id: u16,
    pub name: Name,
    /// Name, type and class, as they were written: an answer repeats them.
    written: Vec<u8>,
}

/// What a message from the guest is.
pub enum Asked {
    Question(Question),
    /// It cannot be answered, but with this.
    Wrong(Rcode),
    /// It is not even a question.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    None = 0,
    FormatError = 1,
    ServerFailure = 2,
    NotImplemented = 4,
    Refused = 5,
}

impl Question {
    pub fn parse(bytes: &[u8]) -> Asked {
        let Ok(message) = DnsPacket::new_checked(bytes) else { return Asked::Nothing };
        if message.flags().contains(DnsFlags::RESPONSE) {
            return Asked::Nothing;
        }
        if message.opcode() != DnsOpcode::Query {
            return Asked::Wrong(Rcode::NotImplemented);
        }
        match Question::read(&message).filter(|_| message.answer_record_count() == 0) {
            Some((question, _)) => Asked::Question(question),
            None => Asked::Wrong(Rcode::FormatError),
        }
    }

    /// The one question of a message, and what is behind it.
    fn read<'a>(message: &'a DnsPacket<&'a [u8]>) -> Option<(Question, &'a [u8])> {
        if message.question_count() != 1 {
            return None;
        }
        let payload = message.payload();
        let (rest, question) = DnsQuestion::parse(payload).ok()?;
        let name = Name::collect(message.parse_name(question.name))?;
        let written = payload[..payload.len() - rest.len()].to_vec();
        Some((Question { id: message.transaction_id(), name, written }, rest))
    }

    /// Whether that is the answer to this question: its id and its question are the same. Servers may change the case of letters.
    pub fn is_answered_by(&self, bytes: &[u8]) -> bool {
        let Ok(message) = DnsPacket::new_checked(bytes) else { return false };
        if !message.flags().contains(DnsFlags::RESPONSE) || message.transaction_id() != self.id {
            return false;
        }
        // Some servers answer that they cannot without saying what.
        if message.question_count() == 0 {
            return message.answer_record_count() == 0 && message.rcode() != DnsRcode::NoError;
        }
        let Some((other, _)) = Question::read(&message) else { return false };
        let type_and_class = |written: &[u8]| written.get(written.len().saturating_sub(4)..).map(<[u8]>::to_vec);
        other.name == self.name && type_and_class(&other.written) == type_and_class(&self.written)
    }

    /// The addresses that an answer gives for the name, or for one that stands for it, and for how many seconds.
    pub fn addresses(&self, bytes: &[u8]) -> Vec<(IpAddr, u32)> {
        let Ok(message) = DnsPacket::new_checked(bytes) else { return Vec::new() };
        let Some((_, mut rest)) = Question::read(&message) else { return Vec::new() };
        let mut aliases: Vec<(Name, Name)> = Vec::new();
        let mut found: Vec<(Name, IpAddr, u32)> = Vec::new();
        for _ in 0..message.answer_record_count().min(MOST_RECORDS) {
            let Ok((behind, record)) = DnsRecord::parse(rest) else { break };
            rest = behind;
            let Some(name) = Name::collect(message.parse_name(record.name)) else { break };
            match record.data {
                DnsRecordData::A(address) => found.push((name, address.into(), record.ttl)),
                DnsRecordData::Aaaa(address) => found.push((name, address.into(), record.ttl)),
                DnsRecordData::Cname(other) => match Name::collect(message.parse_name(other)) {
                    Some(other) => aliases.push((name, other)),
                    None => break,
                },
                DnsRecordData::Other(..) => {}
            }
        }
        let mut names = vec![self.name.clone()];
        while let Some((_, other)) = aliases.iter().find(|(name, other)| names.contains(name) && !names.contains(other)) {
            if names.len() > MOST_ALIASES {
                break;
            }
            names.push(other.clone());
        }
        found.into_iter().filter(|(name, ..)| names.contains(name)).map(|(_, address, ttl)| (address, ttl)).collect()
    }
}

/// An answer with nothing in it but why; to a message whose header is there.
pub fn refusal(question: &[u8], rcode: Rcode) -> Vec<u8> {
    let Some(header) = question.first_chunk::<HEADER>() else { return Vec::new() };
    let message = DnsPacket::new_unchecked(question);
    let written = Question::read(&message).map(|(question, _)| question.written).unwrap_or_default();
    let mut answer = header.to_vec();
    // It is a response; the kind and the wish for recursion stay. Recursion is to be had.
    answer[2] = answer[2] & 0x79 | 0x80;
    answer[3] = 0x80 | rcode as u8;
    answer[4..].fill(0);
    answer[5] = u8::from(!written.is_empty());
    answer.extend(written);
    answer
}

/// An answer without what it says: it was too long.
pub fn truncated(answer: &[u8]) -> Vec<u8> {
    let mut short = refusal(answer, Rcode::None);
    if let Some(flags) = short.get_mut(2) {
        *flags |= TRUNCATED;
    }
    short
}

pub fn id(message: &[u8]) -> Option<u16> {
    message.first_chunk::<2>().map(|id| u16::from_be_bytes(*id))
}

pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.first_chunk_mut::<2>() {
        *place = id.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str) -> Vec<u8> {
        let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
        let mut bytes: Vec<u8> = name.split('.').flat_map(label).collect();
        bytes.push(0);
        bytes
    }

    fn asked(name: &str) -> Vec<u8> {
        [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &written(name), &[0, 1, 0, 1]].concat()
    }

    fn question(bytes: &[u8]) -> Question {
        match Question::parse(bytes) {
            Asked::Question(question) => question,
            _ => panic!("{bytes:?}"),
        }
    }

    /// An answer of records: name as written, type, what.
    fn answered(name: &str, records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
        let mut answer = asked(name);
        answer[2] = 0x81;
        answer[7] = records.len() as u8;
        for (name, kind, data) in records {
            answer.extend(*name);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 99]);
            answer.extend((data.len() as u16).to_be_bytes());
            answer.extend(*data);
        }
        answer
    }

    #[test]
    fn addresses_are_of_the_name_that_was_asked_for() {
        let question = question(&asked("www.Example.org"));
        let to_question = [0xc0, 12];
        let answer = answered(
            "WWW.example.org",
            &[
                (&written("cdn.net"), 1, &[1, 2, 3, 4]),
                (&to_question, 5, &written("cdn.net")),
                (&written("other.net"), 1, &[6, 6, 6, 6]),
                (&written("cdn.net"), 28, &[7; 16]),
                (&written("cdn.net"), 5, &to_question),
                (&to_question, 16, b"text"),
            ],
        );
        assert!(question.is_answered_by(&answer));
        let addresses = question.addresses(&answer);
        assert_eq!(addresses, [([1, 2, 3, 4].into(), 99), ([7u8; 16].into(), 99)]);
        assert!(!question.is_answered_by(&answered("www.example.com", &[])));
        assert!(!question.is_answered_by(&asked("www.example.org")));
    }

    #[test]
    fn loops_end() {
        let question = question(&asked("a.b"));
        // A name that is itself, and two that are one another.
        for pointer in [[0xc0u8, 21], [0xc0, 23], [0xc0, 0xff]] {
            assert_eq!(question.addresses(&answered("a.b", &[(&pointer, 1, &[1, 1, 1, 1])])), [], "{pointer:?}");
        }
        let aliases: Vec<_> = (0..200u8).map(|one| (written(&format!("n{one}")), written(&format!("n{}", one + 1)))).collect();
        let mut records: Vec<(&[u8], u16, &[u8])> = vec![(&[0xc0, 12], 5, &aliases[0].0)];
        records.extend(aliases.iter().map(|(from, to)| (&from[..], 5, &to[..])));
        records.push((&aliases[199].1, 1, &[1, 1, 1, 1]));
        assert_eq!(question.addresses(&answered("a.b", &records)), []);
    }

    #[test]
    fn what_is_no_question_is_not_asked() {
        let good = asked("a.b");
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            Question::parse(&bytes)
        };
        assert!(matches!(changed(2, 0x81), Asked::Nothing));
        assert!(matches!(Question::parse(&good[..11]), Asked::Nothing));
        assert!(matches!(changed(2, 0x28), Asked::Wrong(Rcode::NotImplemented)));
        assert!(matches!(changed(5, 2), Asked::Wrong(Rcode::FormatError)));
        assert!(matches!(changed(7, 1), Asked::Wrong(Rcode::FormatError)));
        assert!(matches!(changed(12, 0xc0), Asked::Wrong(Rcode::FormatError)));
        let refused = refusal(&good, Rcode::Refused);
        assert!(question(&good).is_answered_by(&refused));
        assert_eq!(refused[3] & 0xf, 5);
        assert_eq!(refusal(&good[..14], Rcode::FormatError).len(), 12);
    }

    #[test]
    fn anything_is_looked_at_without_harm() {
        let good = answered("a.b", &[(&[0xc0, 12], 5, &written("c.d")), (&written("c.d"), 1, &[1, 2, 3, 4])]);
        let question = question(&asked("a.b"));
        let mut random = crate::fuzz_tests::Random(1);
        for _ in 0..20_000 {
            let mut bytes = good[..random.below(good.len() + 1)].to_vec();
            for _ in 0..random.below(4) {
                if !bytes.is_empty() {
                    let at = random.below(bytes.len());
                    bytes[at] = random.next() as u8;
                }
            }
            Question::parse(&bytes);
            question.is_answered_by(&bytes);
            question.addresses(&bytes);
            refusal(&bytes, Rcode::Refused);
        }
    }
}
