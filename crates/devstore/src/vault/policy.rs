//! The text of a policy: HCL as people write policies, or JSON.
use super::acl::Capabilities;
use serde_json::Value;

/// One `path` of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Without a leading `/` and without the `*` at its end.
    pub(crate) path: String,
    /// It ended in `*`.
    pub(crate) glob: bool,
    pub(crate) capabilities: Capabilities,
}

/// A policy: what was written, and what it says.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) text: String,
    pub(crate) rules: Vec<Rule>,
}

/// Conditions on parameters and wrapping that the dev store does not enforce: a policy that has one is refused, since an
/// ignored condition would let through what a real Vault stops.
const NOT_ENFORCED: &[&str] = &[
    "allowed_parameters",
    "denied_parameters",
    "required_parameters",
    "min_wrapping_ttl",
    "max_wrapping_ttl",
    "mfa_methods",
    "control_group",
    "subscribe_event_types",
];

impl Policy {
    /// Reads a policy, or says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Policy, String> {
        let items = if text.trim_start().starts_with('{') {
            from_json(text)?
        } else {
            Hcl::new(text).policy()?
        };
        let rules = items
            .into_iter()
            .map(|(path, attributes)| rule(&path, &attributes))
            .collect::<Result<_, _>>()?;
        Ok(Policy {
            text: text.to_owned(),
            rules,
        })
    }
}

type Attributes = Vec<(String, Value)>;

fn rule(path: &str, attributes: &Attributes) -> Result<Rule, String> {
    let bad = |problem: String| format!("failed to parse policy: path {path:?}: {problem}");
    let mut capabilities = Capabilities::NONE;
    for (key, value) in attributes {
        match (key.as_str(), value) {
            ("capabilities", Value::Array(names)) => {
                for name in names {
                    let name = name
                        .as_str()
                        .ok_or_else(|| bad("capabilities must be texts".to_owned()))?;
                    capabilities |= Capabilities::named(name)
                        .ok_or_else(|| bad(format!("invalid capability {name:?}")))?;
                }
            }
            ("policy", Value::String(old)) => {
                capabilities |=
                    Capabilities::old_style(old).ok_or_else(|| bad(format!("invalid policy {old:?}")))?;
            }
            ("capabilities" | "policy", _) => return Err(bad(format!("{key} is of the wrong type"))),
            ("comment" | "description", _) => {}
            (key, _) if NOT_ENFORCED.contains(&key) => {
                return Err(bad(format!("this dev store does not enforce {key}")));
            }
            (key, _) => return Err(bad(format!("invalid key {key:?}"))),
        }
    }
    let bare = path.strip_prefix('/').unwrap_or(path);
    let (bare, glob) = match bare.strip_suffix('*') {
        Some(prefix) => (prefix, true),
        None => (bare, false),
    };
    if bare.contains('*') || (glob && bare.ends_with('+')) {
        return Err(bad("\"*\" stands only at the end, and not after \"+\"".to_owned()));
    }
    if bare.split('/').any(|part| part.contains('+') && part != "+") {
        return Err(bad("\"+\" stands for a whole segment".to_owned()));
    }
    Ok(Rule {
        path: bare.to_owned(),
        glob,
        capabilities: capabilities.settled(),
    })
}

fn from_json(text: &str) -> Result<Vec<(String, Attributes)>, String> {
    let bad = |problem: &str| format!("failed to parse policy: {problem}");
    let value: Value = serde_json::from_str(text).map_err(|error| bad(&error.to_string()))?;
    let mut items = Vec::new();
    for (key, value) in value.as_object().ok_or_else(|| bad("not an object"))? {
        let paths: Vec<&Value> = match (key.as_str(), value) {
            ("name", _) => continue,
            ("path", Value::Object(_)) => vec![value],
            ("path", Value::Array(list)) => list.iter().collect(),
            _ => return Err(bad(&format!("invalid key {key:?}"))),
        };
        for paths in paths {
            for (path, attributes) in paths
                .as_object()
                .ok_or_else(|| bad("\"path\" must hold objects"))?
            {
                let attributes = attributes
                    .as_object()
                    .ok_or_else(|| bad(&format!("path {path:?} must be an object")))?;
                let attributes = attributes
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                items.push((path.clone(), attributes));
            }
        }
    }
    Ok(items)
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
    End,
}

/// The part of HCL that policies are written in: blocks of one label, attributes, texts, lists and comments.
struct Hcl<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
}

impl<'a> Hcl<'a> {
    fn new(text: &'a str) -> Hcl<'a> {
        Hcl {
            rest: text.chars().peekable(),
            line: 1,
        }
    }

    fn policy(mut self) -> Result<Vec<(String, Attributes)>, String> {
        let mut items = Vec::new();
        loop {
            match self.token()? {
                Token::End => return Ok(items),
                Token::Word(word) if word == "name" => {
                    self.sign('=')?;
                    self.value()?;
                }
                Token::Word(word) | Token::Text(word) if word == "path" => {
                    let Token::Text(path) = self.token()? else {
                        return Err(self.bad("expected the path in quotes"));
                    };
                    self.sign('{')?;
                    items.push((path, self.attributes()?));
                }
                _ => return Err(self.bad("expected path \"…\" { … }")),
            }
        }
    }

    fn attributes(&mut self) -> Result<Attributes, String> {
        let mut attributes = Vec::new();
        loop {
            match self.token()? {
                Token::Sign('}') => return Ok(attributes),
                Token::Sign(',') => {}
                Token::Word(key) | Token::Text(key) => {
                    match self.token()? {
                        Token::Sign('=' | ':') => {}
                        // A block, such as `control_group { … }`: the name is enough to refuse it.
                        Token::Sign('{') => {
                            return Err(format!(
                                "failed to parse policy: this dev store does not enforce {key}"
                            ));
                        }
                        _ => return Err(self.bad("expected \"=\"")),
                    }
                    let value = self.value()?;
                    attributes.push((key, value));
                }
                _ => return Err(self.bad("expected an attribute or \"}\"")),
            }
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.token()? {
            Token::Text(text) | Token::Word(text) => Ok(Value::String(text)),
            Token::Sign('[') => {
                let mut items = Vec::new();
                loop {
                    match self.token()? {
                        Token::Sign(']') => return Ok(Value::Array(items)),
                        Token::Sign(',') => {}
                        Token::Text(text) => items.push(Value::String(text)),
                        _ => return Err(self.bad("expected texts in the list")),
                    }
                }
            }
            // A map is only ever the value of a condition that is refused by its name.
            Token::Sign('{') => {
                let mut depth = 1_usize;
                while depth > 0 {
                    match self.token()? {
                        Token::Sign('{') => depth += 1,
                        Token::Sign('}') => depth -= 1,
                        Token::End => return Err(self.bad("expected \"}\"")),
                        _ => {}
                    }
                }
                Ok(Value::Null)
            }
            _ => Err(self.bad("expected a value")),
        }
    }

    fn sign(&mut self, sign: char) -> Result<(), String> {
        if self.token()? == Token::Sign(sign) {
            Ok(())
        } else {
            Err(self.bad(&format!("expected {sign:?}")))
        }
    }

    fn token(&mut self) -> Result<Token, String> {
        loop {
            let Some(next) = self.rest.next() else {
                return Ok(Token::End);
            };
            match next {
                '\n' => self.line += 1,
                space if space.is_whitespace() => {}
                '#' => self.skip_line(),
                '/' if self.rest.peek() == Some(&'/') => self.skip_line(),
                '/' if self.rest.peek() == Some(&'*') => self.skip_block()?,
                '"' => return self.text(),
                '{' | '}' | '[' | ']' | '=' | ',' | ':' => return Ok(Token::Sign(next)),
                letter if letter.is_alphanumeric() || "_-.".contains(letter) => {
                    let mut word = String::from(letter);
                    while let Some(letter) = self.rest.next_if(|c| c.is_alphanumeric() || "_-.".contains(*c))
                    {
                        word.push(letter);
                    }
                    return Ok(Token::Word(word));
                }
                _ => return Err(self.bad(&format!("unexpected {next:?}"))),
            }
        }
    }

    fn text(&mut self) -> Result<Token, String> {
        let mut text = String::new();
        loop {
            match self.rest.next() {
                Some('"') => return Ok(Token::Text(text)),
                Some('\\') => match self.rest.next() {
                    Some('n') => text.push('\n'),
                    Some(c @ ('"' | '\\')) => text.push(c),
                    _ => return Err(self.bad("unknown escape in a text")),
                },
                Some('\n') | None => return Err(self.bad("a text does not end")),
                Some(c) => text.push(c),
            }
        }
    }

    fn skip_line(&mut self) {
        while self.rest.next_if(|c| *c != '\n').is_some() {}
    }

    fn skip_block(&mut self) -> Result<(), String> {
        self.rest.next();
        let mut last = ' ';
        for next in self.rest.by_ref() {
            if next == '\n' {
                self.line += 1;
            }
            if last == '*' && next == '/' {
                return Ok(());
            }
            last = next;
        }
        Err(self.bad("a comment does not end"))
    }

    fn bad(&self, problem: &str) -> String {
        format!("failed to parse policy: line {}: {problem}", self.line)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hcl_and_json_say_the_same() {
        let hcl = r#"
            # a comment
            path "secret/data/orders" { capabilities = ["read", "list"] } // another
            /* and
               one more */
            path "/kv/*" {
              policy = "write"
            }
            path "sys/+/acl" { capabilities = ["deny", "read"], }
        "#;
        let json = r#"{"path": {
            "secret/data/orders": {"capabilities": ["read", "list"]},
            "kv/*": {"policy": "write"},
            "sys/+/acl": {"capabilities": ["deny"]}
        }}"#;
        let rules = Policy::parse(hcl).unwrap().rules;
        assert_eq!(rules, Policy::parse(json).unwrap().rules);
        assert_eq!(rules.len(), 3);
        assert_eq!((rules[1].path.as_str(), rules[1].glob), ("kv/", true));
        assert_eq!(rules[2].capabilities.names(), ["deny"]);
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for text in [
            "path",
            "path secret {}",
            "path \"a\" { capabilities = [\"fly\"] }",
            "path \"a\" { capabilities = \"read\" }",
            "path \"a\" { capabilities = [\"read\"",
            "path \"a\" { allowed_parameters = { x = [\"1\"] } }",
            "path \"a\" { control_group { } }",
            "path \"a\" { unknown = \"x\" }",
            "path \"a*b\" { capabilities = [\"read\"] }",
            "path \"a/b+/c\" { capabilities = [\"read\"] }",
            "path \"a/+*\" { capabilities = [\"read\"] }",
            "resource \"a\" {}",
            "path \"a",
            "/* open",
            "{\"path\": 3}",
            "{\"paths\": {}}",
            "{",
            "\u{0}",
        ] {
            assert!(Policy::parse(text).is_err(), "{text:?}");
        }
    }
}
