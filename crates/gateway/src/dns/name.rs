//! Names, and what a policy says of them.

use std::fmt;

/// RFC 1035: bytes of a name, as it is sent; and so labels, at most.
const LONGEST: usize = 255;
const LONGEST_LABEL: usize = 63;

/// Labels in small letters, the highest domain last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(Vec<Vec<u8>>);

impl Name {
    /// Of labels as a message has them.
    pub fn collect<'a, E>(labels: impl Iterator<Item = Result<&'a [u8], E>>) -> Option<Name> {
        let mut name = Vec::new();
        let mut length = 1;
        for label in labels {
            let label = label.ok()?;
            length += 1 + label.len();
            if length > LONGEST {
                return None;
            }
            name.push(label.to_ascii_lowercase());
        }
        Some(Name(name))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        if self.0.is_empty() {
            return to.write_str(".");
        }
        for (index, label) in self.0.iter().enumerate() {
            let point = if index > 0 { "." } else { "" };
            write!(to, "{point}{}", label.escape_ascii())?;
        }
        Ok(())
    }
}

/// `example.org`, or `*.example.org` for all below it.
#[derive(Clone, Debug)]
pub struct Pattern {
    below: bool,
    labels: Vec<Vec<u8>>,
}

impl Pattern {
    /// As in a policy's `network.domains`.
    pub fn parse(text: &str) -> Option<Pattern> {
        let (below, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let right = |label: &str| (1..=LONGEST_LABEL).contains(&label.len()) && label.bytes().all(usual);
        let labels: Vec<Vec<u8>> = rest.split('.').map(|label| label.to_ascii_lowercase().into_bytes()).collect();
        rest.split('.').all(right).then_some(Pattern { below, labels })
    }

    pub fn matches(&self, name: &Name) -> bool {
        match self.below {
            true => name.0.len() > self.labels.len() && name.0.ends_with(&self.labels),
            false => name.0 == self.labels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn name(text: &str) -> Name {
        Name::collect(text.split('.').map(|label| Ok::<_, ()>(label.as_bytes()))).unwrap()
    }

    #[test]
    fn patterns() {
        let one = Pattern::parse("Example.org").unwrap();
        assert!(one.matches(&name("eXample.ORG")));
        assert!(!one.matches(&name("www.example.org")) && !one.matches(&name("example.org.net")) && !one.matches(&name("org")));
        let below = Pattern::parse("*.example.org").unwrap();
        assert!(below.matches(&name("a.example.org")) && below.matches(&name("b.a.example.org")));
        assert!(!below.matches(&name("example.org")) && !below.matches(&name("notexample.org")));
        // A label that only looks like the end of the name.
        let dotted = Name(vec![b"x.example".to_vec(), b"org".to_vec()]);
        assert!(!below.matches(&dotted));
        for wrong in ["", "*", "*.", ".org", "a..b", "a b", "*.*.org", "a.*"] {
            assert!(Pattern::parse(wrong).is_none(), "{wrong}");
        }
        assert!(Pattern::parse(&"a".repeat(64)).is_none());
    }

    #[test]
    fn a_name_is_short() {
        let label = [b'a'; 50];
        let labels = |count: usize| std::iter::repeat_n(Ok::<_, ()>(&label[..]), count);
        assert!(Name::collect(labels(4)).is_some() && Name::collect(labels(5)).is_none());
        assert_eq!(name("A\n.b").to_string(), "a\\n.b");
    }
}
