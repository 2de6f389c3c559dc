//! Whether a token's policies let a request through: the most specific path decides, alone.
use super::policy::Rule;
use std::cmp::Ordering;
use std::ops::{BitOr, BitOrAssign};

/// What may be done on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities(u16);

const NAMES: [(&str, u16); 9] = [
    ("sudo", 1 << 0),
    ("read", 1 << 1),
    ("list", 1 << 2),
    ("update", 1 << 3),
    ("delete", 1 << 4),
    ("create", 1 << 5),
    ("patch", 1 << 6),
    // Taken and never asked for: the dev store has neither.
    ("subscribe", 1 << 7),
    ("recover", 1 << 8),
];

impl Capabilities {
    pub(crate) const NONE: Capabilities = Capabilities(0);
    pub(crate) const SUDO: Capabilities = Capabilities(1 << 0);
    pub(crate) const READ: Capabilities = Capabilities(1 << 1);
    pub(crate) const LIST: Capabilities = Capabilities(1 << 2);
    pub(crate) const UPDATE: Capabilities = Capabilities(1 << 3);
    pub(crate) const DELETE: Capabilities = Capabilities(1 << 4);
    pub(crate) const CREATE: Capabilities = Capabilities(1 << 5);
    pub(crate) const PATCH: Capabilities = Capabilities(1 << 6);
    const DENY: Capabilities = Capabilities(1 << 15);

    pub(crate) fn named(name: &str) -> Option<Capabilities> {
        if name == "deny" {
            return Some(Capabilities::DENY);
        }
        NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, bit)| Capabilities(*bit))
    }

    /// The words that policies had before capabilities.
    pub(crate) fn old_style(name: &str) -> Option<Capabilities> {
        let read = Capabilities::READ | Capabilities::LIST;
        let write = read | Capabilities::CREATE | Capabilities::UPDATE | Capabilities::DELETE;
        match name {
            "deny" => Some(Capabilities::DENY),
            "read" => Some(read),
            "write" => Some(write),
            "sudo" => Some(write | Capabilities::SUDO),
            _ => None,
        }
    }

    /// `deny` stands alone: it takes away all others.
    pub(crate) fn settled(self) -> Capabilities {
        if self.has(Capabilities::DENY) {
            Capabilities::DENY
        } else {
            self
        }
    }

    pub(crate) fn has(self, wanted: Capabilities) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    pub(crate) fn any(self) -> bool {
        self != Capabilities::NONE && self != Capabilities::DENY
    }

    pub(crate) fn names(self) -> Vec<&'static str> {
        let names: Vec<_> = NAMES
            .iter()
            .filter(|(_, bit)| self.0 & bit != 0)
            .map(|(name, _)| *name)
            .collect();
        if names.is_empty() || self.has(Capabilities::DENY) {
            vec!["deny"]
        } else {
            names
        }
    }
}

impl BitOr for Capabilities {
    type Output = Capabilities;
    fn bitor(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }
}

impl BitOrAssign for Capabilities {
    fn bitor_assign(&mut self, other: Capabilities) {
        *self = *self | other;
    }
}

/// The rules of all policies of one token.
pub(crate) enum Acl {
    /// The root policy: everything, in its namespace and below.
    Root { namespace: String },
    /// Paths from the root namespace on.
    Rules(Vec<Rule>),
}

impl Acl {
    /// What may be done on a path; both start at the root namespace. `None` for root: everything.
    pub(crate) fn on(&self, path: &str, lists: bool) -> Option<Capabilities> {
        let rules = match self {
            Acl::Root { namespace } if path.starts_with(namespace.as_str()) => return None,
            Acl::Root { .. } => return Some(Capabilities::NONE),
            Acl::Rules(rules) => rules,
        };
        let bare = path.strip_suffix('/').unwrap_or(path);
        let found = decide(rules, |rule| exact(rule, path))
            .or_else(|| decide(rules, |rule| lists && exact(rule, bare)))
            .or_else(|| decide(rules, |rule| loose(rule, path)))
            .or_else(|| decide(rules, |rule| lists && loose(rule, bare)));
        Some(found.unwrap_or(Capabilities::NONE))
    }

    /// Whether anything at all is allowed on this mount (`secret/`) or below.
    pub(crate) fn touches(&self, mount: &str) -> bool {
        match self {
            Acl::Root { namespace } => mount.starts_with(namespace.as_str()),
            Acl::Rules(rules) => rules
                .iter()
                .any(|rule| rule.capabilities.any() && overlaps(&rule.path, rule.glob, mount)),
        }
    }
}

fn has_wildcards(rule: &Rule) -> bool {
    rule.path.split('/').any(|part| part == "+")
}

fn exact(rule: &Rule, path: &str) -> bool {
    !rule.glob && !has_wildcards(rule) && rule.path == path
}

fn loose(rule: &Rule, path: &str) -> bool {
    if !has_wildcards(rule) {
        return rule.glob && path.starts_with(&rule.path);
    }
    let (wanted, given): (Vec<&str>, Vec<&str>) = (rule.path.split('/').collect(), path.split('/').collect());
    if given.len() < wanted.len() || (!rule.glob && given.len() != wanted.len()) {
        return false;
    }
    let last = wanted.len() - 1;
    wanted
        .iter()
        .zip(&given)
        .enumerate()
        .all(|(at, (wanted, given))| match *wanted {
            "+" => true,
            prefix if rule.glob && at == last => given.starts_with(prefix),
            text => text == *given,
        })
}

/// The rules of the most specific path among those that match; the same path in several policies adds up, `deny` wins.
fn decide(rules: &[Rule], matches: impl Fn(&Rule) -> bool) -> Option<Capabilities> {
    let best = rules
        .iter()
        .filter(|rule| matches(rule))
        .max_by(|a, b| specificity(a, b))?;
    let together = rules
        .iter()
        .filter(|rule| rule.path == best.path && rule.glob == best.glob)
        .fold(Capabilities::NONE, |all, rule| all | rule.capabilities);
    Some(together.settled())
}

/// Vault's order: the later the first wildcard the better, then no glob at the end, fewer wildcards, the longer path.
fn specificity(a: &Rule, b: &Rule) -> Ordering {
    let first = |rule: &Rule| {
        let plus = rule.path.split('/').scan(0, |at, part| {
            let here = *at;
            *at += part.len() + 1;
            Some((here, part == "+"))
        });
        plus.filter(|(_, wild)| *wild)
            .map(|(at, _)| at)
            .next()
            .unwrap_or(rule.path.len())
    };
    let wildcards = |rule: &Rule| rule.path.split('/').filter(|part| *part == "+").count();
    first(a)
        .cmp(&first(b))
        .then_with(|| b.glob.cmp(&a.glob))
        .then_with(|| wildcards(b).cmp(&wildcards(a)))
        .then_with(|| a.path.len().cmp(&b.path.len()))
        .then_with(|| a.path.cmp(&b.path))
}

/// Whether some path is both under the mount and under the rule.
fn overlaps(rule: &str, glob: bool, mount: &str) -> bool {
    let (wanted, given): (Vec<&str>, Vec<&str>) = (
        rule.split('/').collect(),
        mount.trim_end_matches('/').split('/').collect(),
    );
    for (at, part) in given.iter().enumerate() {
        match wanted.get(at) {
            Some(&"+") => {}
            Some(text) if text == part => {}
            Some(prefix) => return glob && at == wanted.len() - 1 && part.starts_with(prefix),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::vault::policy::Policy;

    fn acl(policies: &[&str]) -> Acl {
        Acl::Rules(
            policies
                .iter()
                .flat_map(|text| Policy::parse(text).unwrap().rules)
                .collect(),
        )
    }

    #[test]
    fn the_most_specific_path_decides_alone() {
        let acl = acl(&[r#"
            path "secret/*" { capabilities = ["read", "list", "update"] }
            path "secret/data/*" { capabilities = ["read"] }
            path "secret/data/orders" { capabilities = ["deny"] }
            path "secret/+/plus" { capabilities = ["create"] }
            path "secret/data/pl*" { capabilities = ["delete"] }
            path "secret/metadata/team" { capabilities = ["list"] }
        "#]);
        for (path, lists, expected) in [
            ("secret/x", false, vec!["read", "list", "update"]),
            ("secret/data/x", false, vec!["read"]),
            ("secret/data/orders", false, vec!["deny"]),
            ("secret/data/orders/deeper", false, vec!["read"]),
            ("secret/data/plus", false, vec!["delete"]),
            ("secret/other/plus", false, vec!["create"]),
            ("secret/metadata/team/", true, vec!["list"]),
            ("kv/x", false, vec!["deny"]),
        ] {
            assert_eq!(acl.on(path, lists).unwrap().names(), expected, "{path}");
        }
    }

    #[test]
    fn the_same_path_in_two_policies_adds_up_and_deny_wins() {
        let read = r#"path "a" { capabilities = ["read"] }"#;
        let update = r#"path "a" { capabilities = ["update"] }"#;
        let deny = r#"path "a" { capabilities = ["deny"] }"#;
        assert_eq!(
            acl(&[read, update]).on("a", false).unwrap().names(),
            ["read", "update"]
        );
        assert_eq!(
            acl(&[read, deny, update]).on("a", false).unwrap().names(),
            ["deny"]
        );
    }

    #[test]
    fn a_mount_is_visible_when_anything_under_it_is_allowed() {
        let acl = acl(&[r#"
            path "secret/data/x" { capabilities = ["read"] }
            path "kv/*" { capabilities = ["deny"] }
            path "+/data" { capabilities = ["read"] }
            path "te*" { capabilities = ["read"] }
        "#]);
        assert!(acl.touches("secret/") && acl.touches("other/") && acl.touches("team/"));
        let nothing = Acl::Rules(Vec::new());
        assert!(!nothing.touches("secret/"));
        let root = Acl::Root {
            namespace: "a/".to_owned(),
        };
        assert!(root.touches("a/secret/") && !root.touches("b/secret/"));
    }
}
