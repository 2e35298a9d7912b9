//! Text to token ids and back.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use super::byte_level::{ByteLevel, Ranks};
use super::gguf_vocabulary::{GgufVocabulary, stand_ins};
use super::model::{Cutter, Model, Part};
use super::pieces::{Assembler, Pieces, Style};
use super::spm::{self, Kind, Piece, Prefix, Spm};
use super::tokenizer_json::TokenizerJson;
use super::{Version, files, sentencepiece, special_tokens, tekken};
use crate::{Error, ErrorKind, Result};

/// How [`Tokenizer::encode`] reads a text; the default is plain text without a start token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encode {
    /// Control tokens written out in the text (`</s>`, `[INST]`) become those tokens; otherwise they are spelled.
    pub special: bool,
    /// The ids begin with the model's start token, if it begins texts with one: exactly once, even where the text
    /// yields it too.
    pub bos: bool,
}

/// A tokenizer: `tokenizer.json`, SentencePiece's `tokenizer.model`, Mistral's `tekken.json` or the vocabulary in a
/// GGUF file, with the ids that the library behind each gives (`tokenizers`, sentencepiece, mistral-common,
/// llama.cpp).
pub struct Tokenizer {
    vocabulary: Vocabulary,
    pieces: Pieces,
    control: HashMap<u32, String>,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Whether texts begin with the start token.
    adds_bos: bool,
    version: Option<Version>,
}

enum Vocabulary {
    Json(Box<TokenizerJson>),
    Own { model: Box<dyn Model>, tokens: Vec<String>, control: Cutter },
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder: its `tokenizer.json`, or else its `tekken.json`, or else the newest of
    /// its `tokenizer.model` (`.v3` before `.v1` before none); `None` if there is none of them.
    ///
    /// Errors: [`ErrorKind::Io`] if the folder cannot be read, and as [`from_file`](Self::from_file).
    pub fn from_dir(dir: &Path) -> Result<Option<Self>> {
        files::find(dir)?.map(|path| Self::from_file(&path)).transpose()
    }

    /// Reads a tokenizer's file; the name says what it is: `tekken*.json`, other `.json`, `.model` or `.model.v3`.
    /// Beside a `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` name the start and end tokens
    /// (`<s>` and `</s>` where neither does).
    ///
    /// Errors: [`ErrorKind::Io`] if a file cannot be read, [`ErrorKind::Tokenizer`] if one is damaged, of a kind that
    /// Mistral's models and their relatives do not use, or names a start or end token that does not exist.
    pub fn from_file(path: &Path) -> Result<Self> {
        let read = || std::fs::read(path).map_err(|error| Error::io(path, error));
        let loaded = match files::kind(path) {
            Some(files::Kind::Json) => Self::from_json(&read()?, path.parent().unwrap_or(Path::new(""))),
            Some(files::Kind::Tekken) => Self::from_tekken(&crate::checkpoint::read_text(path)?),
            Some(files::Kind::SentencePiece(version)) => Self::from_sentencepiece(&read()?, version),
            None => {
                let expected = "a tokenizer's file: tokenizer.json, tekken.json or tokenizer.model";
                return Err(Error::expected(ErrorKind::Tokenizer, path.display(), expected, "another name"));
            }
        };
        loaded.map_err(|error| error.within(path.display()))
    }

    fn from_json(text: &[u8], dir: &Path) -> Result<Self> {
        let (json, pieces) = TokenizerJson::parse(text)?;
        let named = special_tokens::read(dir)?;
        let find = |name: &str, usual: &str| match named.get(name) {
            Some(Some(token)) => json.token_to_id(token).map(Some).ok_or_else(|| {
                let expected = format_args!("{token:?} in the vocabulary");
                Error::expected(ErrorKind::Tokenizer, name, expected, "no such token")
            }),
            Some(None) => Ok(None),
            None => Ok(json.token_to_id(usual)),
        };
        let (bos, eos) = (find("bos_token", "<s>")?, find("eos_token", "</s>")?);
        let control = json.control();
        let vocabulary = Vocabulary::Json(Box::new(json));
        Ok(Self { vocabulary, pieces, control, bos, eos, adds_bos: true, version: None })
    }

    /// Reads the contents of a SentencePiece `tokenizer.model` of byte pairs; without a `version` the control tokens
    /// tell it.
    ///
    /// Errors: as [`from_file`](Self::from_file).
    pub fn from_sentencepiece(bytes: &[u8], version: Option<Version>) -> Result<Self> {
        let file = sentencepiece::parse(bytes)?;
        let mut tokenizer =
            Self::of_pieces(file.pieces, file.byte_fallback, file.prefix, Some(&file.unknown))?;
        (tokenizer.bos, tokenizer.eos) = (tokenizer.control_id(&file.bos), tokenizer.control_id(&file.eos));
        let usual = match (tokenizer.control_id("[SYSTEM_PROMPT]"), tokenizer.control_id("[INST]")) {
            (Some(_), _) => Version::V7,
            (None, Some(_)) => Version::V3,
            (None, None) => Version::V1,
        };
        tokenizer.version = Some(version.unwrap_or(usual));
        Ok(tokenizer)
    }

    /// Pieces with SentencePiece's algorithm; `unknown` is what the unknown one is decoded to, without which it is a
    /// control token.
    fn of_pieces(
        pieces: Vec<Piece>,
        byte_fallback: bool,
        prefix: Prefix,
        unknown: Option<&str>,
    ) -> Result<Self> {
        let model = Spm::new(&pieces, byte_fallback, prefix)?;
        let unstripped =
            (0..).zip(&pieces).filter(|(_, piece)| matches!(piece.2, Kind::Byte | Kind::Unknown));
        let style = Style {
            strip: usize::from(prefix != Prefix::Never),
            unstripped: unstripped.map(|(id, _)| id).collect(),
            each_byte: true,
            control_ends: true,
        };
        let bytes = pieces.iter().map(|piece| match (piece.2, unknown) {
            (Kind::Unknown, Some(unknown)) => unknown.into(),
            _ => spm::bytes(piece),
        });
        let bytes = Pieces::of(bytes, style);
        let is_control = |kind| kind == Kind::Control || kind == Kind::Unknown && unknown.is_none();
        let control = (0..).zip(&pieces).filter(|(_, piece)| is_control(piece.2));
        let control = control.map(|(id, piece)| (id, piece.0.clone())).collect();
        let tokens = pieces.into_iter().map(|piece| piece.0).collect();
        Ok(Self::own(Box::new(model), tokens, bytes, control))
    }

    /// Reads the contents of a `tekken.json`.
    ///
    /// Errors: as [`from_file`](Self::from_file).
    pub fn from_tekken(text: &str) -> Result<Self> {
        let file = tekken::parse(text)?;
        let version = file.version.parse()?;
        let first = file.control.len() as u32;
        let ids: HashMap<Vec<u8>, u32> = file.tokens.iter().cloned().zip(first..).collect();
        if ids.len() < file.tokens.len() {
            return Err(Error::expected(ErrorKind::Tokenizer, "vocab", "different tokens", "one twice"));
        }
        let model = ByteLevel::new(&file.pattern, ids, Ranks::Ids, true)?;
        let control = (0..).zip(file.control.iter().cloned()).collect();
        let tokens = file.tokens.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let tokens = file.control.iter().cloned().chain(tokens).collect();
        let bytes = file.control.into_iter().map(String::into_bytes).chain(file.tokens);
        let style = Style { control_ends: true, ..Style::default() };
        let mut tokenizer = Self::own(Box::new(model), tokens, Pieces::of(bytes, style), control);
        (tokenizer.bos, tokenizer.eos) = (tokenizer.control_id("<s>"), tokenizer.control_id("</s>"));
        tokenizer.version = Some(version);
        Ok(tokenizer)
    }

    /// Makes a tokenizer of a GGUF file's vocabulary, with llama.cpp's ids.
    ///
    /// Error ([`ErrorKind::Tokenizer`]) for a model or way to cut words that no Mistral uses, naming it, and for lists
    /// that contradict each other.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self> {
        let pieces = vocabulary.pieces()?;
        let mut tokenizer = match vocabulary.model.as_str() {
            "llama" => {
                let spaced = vocabulary.add_space_prefix.unwrap_or(true);
                let prefix = if spaced { Prefix::Each } else { Prefix::Never };
                let mut tokenizer = Self::of_pieces(pieces, true, prefix, None)?;
                tokenizer.adds_bos = vocabulary.add_bos.unwrap_or(true);
                tokenizer
            }
            "gpt2" => Self::byte_level(vocabulary, pieces)?,
            other => {
                let expected = "`llama` or `gpt2`";
                return Err(Error::expected(ErrorKind::Tokenizer, "tokenizer.ggml.model", expected, other));
            }
        };
        let count = vocabulary.tokens.len();
        for (key, id) in [("bos_token_id", vocabulary.bos), ("eos_token_id", vocabulary.eos)] {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                let expected = format_args!("an id below {count}");
                return Err(Error::expected(ErrorKind::Tokenizer, key, expected, id));
            }
        }
        (tokenizer.bos, tokenizer.eos) = (vocabulary.bos, vocabulary.eos);
        Ok(tokenizer)
    }

    fn byte_level(vocabulary: &GgufVocabulary, pieces: Vec<Piece>) -> Result<Self> {
        let words = vocabulary.words()?;
        let bytes: Vec<Vec<u8>> = pieces
            .iter()
            .map(|(token, _, kind)| match kind {
                Kind::Normal => stand_ins(token).unwrap_or_else(|| token.clone().into()),
                _ => token.clone().into(),
            })
            .collect();
        let normal = (0..).zip(&pieces).zip(&bytes).filter(|((_, piece), _)| piece.2 == Kind::Normal);
        let ids: HashMap<Vec<u8>, u32> = normal.map(|((id, _), bytes)| (bytes.clone(), id)).collect();
        let ranks = vocabulary.ranks(&ids)?;
        let model = ByteLevel::new(words.pattern, ids, ranks, words.whole)?;
        let control = (0..).zip(&pieces).filter(|(_, piece)| piece.2 == Kind::Control);
        let control = control.map(|(id, piece)| (id, piece.0.clone())).collect();
        let user_defined = (0..).zip(&pieces).filter(|(_, piece)| piece.2 == Kind::UserDefined);
        let user_defined = Cutter::new(user_defined.map(|(id, piece)| (piece.0.clone(), id)));
        let tokens = pieces.into_iter().map(|piece| piece.0).collect();
        let style = Style { control_ends: true, ..Style::default() };
        let model = Cut { model, user_defined };
        let mut tokenizer = Self::own(Box::new(model), tokens, Pieces::of(bytes.into_iter(), style), control);
        tokenizer.adds_bos = vocabulary.add_bos.unwrap_or(words.add_bos);
        Ok(tokenizer)
    }

    fn own(
        model: Box<dyn Model>,
        tokens: Vec<String>,
        pieces: Pieces,
        control: HashMap<u32, String>,
    ) -> Self {
        let cutter = Cutter::new(control.iter().map(|(id, token)| (token.clone(), *id)));
        let vocabulary = Vocabulary::Own { model, tokens, control: cutter };
        Self { vocabulary, pieces, control, bos: None, eos: None, adds_bos: true, version: None }
    }

    /// The ids of `text`. Error ([`ErrorKind::Tokenizer`]) if the file's own rules cannot encode it.
    pub fn encode(&self, text: &str, options: Encode) -> Result<Vec<u32>> {
        let mut ids = self.ids(text, options.special, None)?;
        if options.bos && self.adds_bos && self.bos.is_some() && ids.first().copied() != self.bos {
            ids.splice(0..0, self.bos);
        }
        Ok(ids)
    }

    /// The ids of a text in which control tokens count unless `marker` interrupts them; markers leave no trace.
    pub(super) fn encode_marked(&self, text: &str, marker: char) -> Result<Vec<u32>> {
        self.ids(text, true, Some(marker))
    }

    fn ids(&self, text: &str, special: bool, marker: Option<char>) -> Result<Vec<u32>> {
        let (model, control) = match &self.vocabulary {
            Vocabulary::Json(json) => return json.encode(text, special, marker),
            Vocabulary::Own { model, control, .. } => (model, control),
        };
        let parts = if special { control.cut(text) } else { vec![Part::Text(text)] };
        let mut ids = Vec::new();
        for (at, part) in parts.into_iter().enumerate() {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => {
                    let text = match marker {
                        Some(marker) => Cow::from(text.replace(marker, "")),
                        None => text.into(),
                    };
                    model.encode(&text, at == 0, &mut ids)?;
                }
            }
        }
        Ok(ids)
    }

    /// The text of `ids`, without the space that encoding puts before the first word; `skip_special` leaves
    /// control tokens out. What is not a UTF-8 character becomes U+FFFD.
    ///
    /// Error ([`ErrorKind::Tokenizer`]) for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let mut assembler = self.pieces.assembler();
        let mut text = String::new();
        for &id in ids {
            text += &self.add(&mut assembler, id, !skip_special)?;
        }
        Ok(text + &assembler.finish())
    }

    /// Adds a token to a text, control tokens only if they are `shown`, and returns what is now certain of it.
    pub(super) fn add(&self, text: &mut Assembler, id: u32, shown: bool) -> Result<String> {
        self.pieces.push(text, id, self.is_special(id), shown).ok_or_else(|| self.unknown(id))
    }

    /// The bytes that a token adds in the middle of a text: not always whole characters.
    ///
    /// Error ([`ErrorKind::Tokenizer`]) for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8]> {
        self.pieces.get(id).ok_or_else(|| self.unknown(id))
    }

    fn unknown(&self, id: u32) -> Error {
        let expected = format_args!("an id of the {} in the vocabulary", self.vocab_size());
        Error::expected(ErrorKind::Tokenizer, "token id", expected, id)
    }

    /// An empty text, ready for its first token.
    pub(super) fn assembler(&self) -> Assembler {
        self.pieces.assembler()
    }

    /// One more than the largest token id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.pieces.vocab_size()
    }

    /// The id of a token as the vocabulary writes it (`▁the`, `<0x0A>`, `</s>`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.vocabulary {
            Vocabulary::Json(json) => json.token_to_id(token),
            Vocabulary::Own { tokens, .. } => {
                tokens.iter().position(|known| known == token).map(|id| id as u32)
            }
        }
    }

    /// A token as the vocabulary writes it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        match &self.vocabulary {
            Vocabulary::Json(json) => json.id_to_token(id),
            Vocabulary::Own { tokens, .. } => tokens.get(id as usize).cloned(),
        }
    }

    /// The start-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The instruct format that the tokenizer's file is made for, where it says so.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Whether `id` is a control token, which plain text never contains.
    pub fn is_special(&self, id: u32) -> bool {
        self.control.contains_key(&id)
    }

    /// The id of the control token that is written so.
    pub(super) fn control_id(&self, token: &str) -> Option<u32> {
        self.control.iter().find(|(_, known)| *known == token).map(|(id, _)| *id)
    }

    /// The control tokens as they are written.
    pub(super) fn control_tokens(&self) -> impl Iterator<Item = &str> {
        self.control.values().map(String::as_str)
    }
}

/// A model before which texts are cut at user-defined tokens.
struct Cut {
    model: ByteLevel,
    user_defined: Cutter,
}

impl Model for Cut {
    fn encode(&self, text: &str, begins: bool, ids: &mut Vec<u32>) -> Result<()> {
        for part in self.user_defined.cut(text) {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => self.model.encode(text, begins, ids)?,
            }
        }
        Ok(())
    }
}
