//! JSON as Python's `json` module reads and writes it: `json.dumps(json.loads(text), ensure_ascii=False)`.
//!
//! Instruct formats are trained on what Python writes, so numbers, spaces and escapes must come out the same. Python
//! reads more than others: integers of any length, `NaN`, `Infinity`.

use std::fmt::{self, Display, Formatter};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// Lists and objects within each other; Python gives up at about a thousand.
const DEEPEST: usize = 500;

/// A value, which is displayed as Python writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as Python writes it.
    Number(String),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object, in the order in which keys first stood.
    Object(Vec<(String, Json)>),
}

/// Why a text is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is not JSON, to Python either.
    NotJson,
    /// Lists or objects lie too deep in each other.
    TooDeep,
    /// Half of a surrogate pair, which Python reads and cannot encode.
    Surrogate,
}

impl Json {
    /// Reads a text.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut reader = Reader { text, depth: 0 };
        let value = reader.value()?;
        reader.space();
        if reader.text.is_empty() { Ok(value) } else { Err(Refusal::NotJson) }
    }
}

/// A number as Python's `repr` writes it: `1.0`, `1e-05`, `1.5e+16`.
pub(super) fn python_float(number: f64) -> String {
    if !number.is_finite() {
        return match (number.is_nan(), number > 0.0) {
            (true, _) => "NaN",
            (_, true) => "Infinity",
            (_, false) => "-Infinity",
        }
        .into();
    }
    let text = format!("{number:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.text = self.text.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Whether `word` comes next; it is then consumed.
    fn take(&mut self, word: &str) -> bool {
        let rest = self.text.strip_prefix(word);
        self.text = rest.unwrap_or(self.text);
        rest.is_some()
    }

    /// A value and the space before it.
    fn value(&mut self) -> Result<Json, Refusal> {
        self.space();
        let words = [
            ("null", Json::Null),
            ("true", Json::Bool(true)),
            ("false", Json::Bool(false)),
            ("NaN", Json::Number("NaN".into())),
            ("Infinity", Json::Number("Infinity".into())),
            ("-Infinity", Json::Number("-Infinity".into())),
        ];
        match self.text.as_bytes().first() {
            Some(b'"') => self.string().map(Json::Text),
            Some(b'[' | b'{') if self.depth == DEEPEST => Err(Refusal::TooDeep),
            Some(b'[' | b'{') => {
                self.depth += 1;
                let value = if self.take("[") { self.list() } else { self.object() };
                self.depth -= 1;
                value
            }
            _ => match words.into_iter().find(|(word, _)| self.take(word)) {
                Some((_, value)) => Ok(value),
                None => self.number(),
            },
        }
    }

    /// The rest of a list.
    fn list(&mut self) -> Result<Json, Refusal> {
        let mut list = Vec::new();
        self.space();
        if self.take("]") {
            return Ok(Json::List(list));
        }
        loop {
            list.push(self.value()?);
            if self.ends("]")? {
                return Ok(Json::List(list));
            }
        }
    }

    fn object(&mut self) -> Result<Json, Refusal> {
        let mut object = Fields::default();
        self.text = &self.text[1..];
        self.space();
        if self.take("}") {
            return Ok(Json::Object(object.list));
        }
        loop {
            self.space();
            let key = self.string()?;
            self.space();
            if !self.take(":") {
                return Err(Refusal::NotJson);
            }
            let value = self.value()?;
            object.insert(key, value);
            if self.ends("}")? {
                return Ok(Json::Object(object.list));
            }
        }
    }

    /// What follows a value: the end of what it lies in, or a comma.
    fn ends(&mut self, end: &str) -> Result<bool, Refusal> {
        self.space();
        let ends = self.take(end);
        if ends || self.take(",") { Ok(ends) } else { Err(Refusal::NotJson) }
    }

    fn digits(&mut self) -> &str {
        let end = self.text.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.text.len());
        let (digits, rest) = self.text.split_at(end);
        self.text = rest;
        digits
    }

    fn number(&mut self) -> Result<Json, Refusal> {
        let start = self.text;
        self.take("-");
        if !self.take("0") && self.digits().is_empty() {
            return Err(Refusal::NotJson);
        }
        let integer = &start[..start.len() - self.text.len()];
        let mut end = self.text;
        if self.take(".") && !self.digits().is_empty() {
            end = self.text;
        }
        self.text = end;
        if self.take("e") || self.take("E") {
            let _ = self.take("+") || self.take("-");
            if !self.digits().is_empty() {
                end = self.text;
            }
        }
        self.text = end;
        let number = &start[..start.len() - end.len()];
        let text = match number {
            "-0" => "0".into(),
            _ if number == integer => number.into(),
            _ => python_float(number.parse().map_err(|_| Refusal::NotJson)?),
        };
        Ok(Json::Number(text))
    }

    fn string(&mut self) -> Result<String, Refusal> {
        if !self.take("\"") {
            return Err(Refusal::NotJson);
        }
        let mut string = String::new();
        loop {
            let plain = self.text.find(|c: char| c == '"' || c == '\\' || c < ' ').ok_or(Refusal::NotJson)?;
            string.push_str(&self.text[..plain]);
            self.text = &self.text[plain..];
            if self.take("\"") {
                return Ok(string);
            }
            if !self.take("\\") {
                return Err(Refusal::NotJson);
            }
            let escape = self.text.chars().next().ok_or(Refusal::NotJson)?;
            self.text = &self.text[escape.len_utf8()..];
            string.push(match escape {
                '"' | '\\' | '/' => escape,
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => self.unicode()?,
                _ => return Err(Refusal::NotJson),
            });
        }
    }

    /// The character after `\u`, which two escapes may make up.
    fn unicode(&mut self) -> Result<char, Refusal> {
        let unit = self.unit()?;
        if let Some(c) = char::from_u32(unit.into()) {
            return Ok(c);
        }
        let low = if self.take("\\u") { Some(self.unit()?) } else { None };
        let mut pair = char::decode_utf16([unit].into_iter().chain(low));
        pair.next().and_then(Result::ok).ok_or(Refusal::Surrogate)
    }

    fn unit(&mut self) -> Result<u16, Refusal> {
        let digits = self.text.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let digits = digits.ok_or(Refusal::NotJson)?;
        self.text = &self.text[4..];
        u16::from_str_radix(digits, 16).map_err(|_| Refusal::NotJson)
    }
}

/// An object in the making: of keys that stand twice, the last value counts, at the place of the first.
#[derive(Default)]
struct Fields {
    list: Vec<(String, Json)>,
    places: std::collections::HashMap<String, usize>,
}

impl Fields {
    fn insert(&mut self, key: String, value: Json) {
        match self.places.get(&key) {
            Some(&at) => self.list[at].1 = value,
            None => {
                self.places.insert(key.clone(), self.list.len());
                self.list.push((key, value));
            }
        }
    }
}

impl Display for Json {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(number) => f.write_str(number),
            Self::Text(text) => write_text(f, text),
            Self::List(list) => {
                f.write_str("[")?;
                for (at, value) in list.iter().enumerate() {
                    f.write_str(if at > 0 { ", " } else { "" })?;
                    value.fmt(f)?;
                }
                f.write_str("]")
            }
            Self::Object(fields) => {
                f.write_str("{")?;
                for (at, (key, value)) in fields.iter().enumerate() {
                    f.write_str(if at > 0 { ", " } else { "" })?;
                    write_text(f, key)?;
                    f.write_str(": ")?;
                    value.fmt(f)?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_text(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => {
                match (number.parse::<i64>(), number.parse::<u64>(), number.parse::<f64>()) {
                    (Ok(number), ..) => serializer.serialize_i64(number),
                    (_, Ok(number), _) => serializer.serialize_u64(number),
                    (.., number) => serializer.serialize_f64(number.unwrap_or(f64::NAN)),
                }
            }
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => serializer.collect_seq(list),
            Self::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Json;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(Json::Number(python_float(number)))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Json::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut fields = Fields::default();
        while let Some((key, value)) = map.next_entry::<String, _>()? {
            fields.insert(key, value);
        }
        Ok(Json::Object(fields.list))
    }
}
