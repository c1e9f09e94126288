//! The layouts of another version's maps, and how their entries become ours: each field has the bytes of the field of the
//! same name and size, and a new field is zero.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

/// The layouts of a version, from the text that `headgate_abi::RECORDED_LAYOUTS` describes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layouts {
    maps: BTreeMap<String, Contents>,
}

/// Kind of a map, and types of its keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contents {
    kind: String,
    key: Type,
    value: Type,
}

/// A type: two with the same fields are the same, whatever their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Type {
    size: usize,
    /// Names and offsets.
    fields: Vec<(String, usize)>,
}

/// How the entries of a map are taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Conversion {
    /// The map itself is: nothing differs.
    Same,
    /// Keys and values are copied by these parts.
    Copy { key: Parts, value: Parts },
    /// They are not: the map is new, or its keys have other fields.
    Nothing,
}

/// Bytes of one value that become bytes of another one, whose other bytes are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    from_size: usize,
    to_size: usize,
    copied: Vec<(Range<usize>, usize)>,
}

impl Layouts {
    /// Reads the text; skips what it does not understand, and maps of types that are not described.
    pub(crate) fn parse(text: &str) -> Self {
        let mut types = BTreeMap::new();
        let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        for words in words.clone() {
            if let ["type", name, size, fields @ ..] = &words[..]
                && let Some(found) = Type::parse(size, fields)
            {
                types.insert((*name).to_owned(), found);
            }
        }
        let mut maps = BTreeMap::new();
        for words in words {
            if let ["map", name, kind, key, value] = &words[..]
                && let (Some(key), Some(value)) = (types.get(*key), types.get(*value))
            {
                let contents = Contents {
                    kind: (*kind).to_owned(),
                    key: key.clone(),
                    value: value.clone(),
                };
                maps.insert((*name).to_owned(), contents);
            }
        }
        Self { maps }
    }

    /// Returns where the values of a map have the second in which they changed last.
    pub(crate) fn seen_at(&self, map: &str) -> Option<usize> {
        let seen = self.maps.get(map)?.value.find("seen_s", size_of::<u32>());
        seen.map(|range| range.start)
    }

    /// Whether no map is described: the text is of another kind, or damaged.
    pub(crate) fn is_empty(&self) -> bool {
        self.maps.is_empty()
    }

    /// Returns the bytes in which the values of two connections differ.
    pub(crate) fn identity(&self, map: &str) -> Vec<Range<usize>> {
        const NAMES: [&str; 4] = ["source", "destination", "source_port", "destination_port"];
        let fields = { self.maps.get(map).into_iter() }.flat_map(|map| map.value.fields());
        let fields = fields.filter(|(name, _)| NAMES.contains(name));
        fields.map(|(_, range)| range).collect()
    }

    /// Returns how the entries of a map of this version become those of another one.
    pub(crate) fn conversion(&self, to: &Self, map: &str) -> Conversion {
        let (Some(from), Some(to)) = (self.maps.get(map), to.maps.get(map)) else {
            return Conversion::Nothing;
        };
        if from == to {
            return Conversion::Same;
        }
        // What a key lacks cannot be known, and the prefix of a trie's key counts its bits.
        let is_key = from.kind == to.kind
            && from.key.has_all_of(&to.key)
            && (from.kind != TRIE || from.key == to.key);
        match (is_key, Parts::new(&from.value, &to.value)) {
            (true, Some(value)) => Conversion::Copy {
                key: Parts::new(&from.key, &to.key).unwrap_or_default(),
                value,
            },
            _ => Conversion::Nothing,
        }
    }
}

impl Type {
    fn parse(size: &str, words: &[&str]) -> Option<Self> {
        let fields = words.chunks(2).map(|field| match field {
            [name, offset] => Some(((*name).to_owned(), offset.parse().ok()?)),
            _ => None,
        });
        let mut found = Self {
            size: size.parse().ok()?,
            fields: fields.collect::<Option<_>>()?,
        };
        found.fields.sort_by_key(|(_, offset)| *offset);
        let is_inside = |(_, offset): &(String, usize)| *offset <= found.size;
        found.fields.iter().all(is_inside).then_some(found)
    }

    /// Names and bytes of the fields. There is no padding, so a field ends where the next one begins.
    fn fields(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        let ends = self.fields.iter().skip(1).map(|(_, offset)| *offset);
        let ends = ends.chain([self.size]);
        let fields = self.fields.iter().zip(ends);
        fields.map(|((name, start), end)| (name.as_str(), *start..end))
    }

    fn find(&self, name: &str, size: usize) -> Option<Range<usize>> {
        let is_it = |(found, range): &(&str, Range<usize>)| *found == name && range.len() == size;
        Some(self.fields().find(is_it)?.1)
    }

    /// Whether it has all fields of another type, but for its zeros.
    fn has_all_of(&self, other: &Self) -> bool {
        let has = |(name, range): (&str, Range<usize>)| {
            name == ZERO || self.find(name, range.len()).is_some()
        };
        self == other || !other.fields.is_empty() && other.fields().all(has)
    }
}

/// The name of fields that are zero.
const ZERO: &str = "zero";
/// The kind of maps that the kernel finds by the longest prefix of the key.
const TRIE: &str = "trie";

impl Parts {
    /// The size of a converted value.
    #[cfg(feature = "other-version")]
    pub(crate) fn to_size(&self) -> usize {
        self.to_size
    }

    /// `None` if the types have no fields, and differ.
    fn new(from: &Type, to: &Type) -> Option<Self> {
        let copied = if from.size == 0 || to.size == 0 {
            return None;
        } else if from == to {
            vec![(0..from.size, 0)]
        } else if to.fields.is_empty() || from.fields.is_empty() {
            return None;
        } else {
            to.fields()
                .filter(|(name, _)| *name != ZERO)
                .filter_map(|(name, range)| Some((from.find(name, range.len())?, range.start)))
                .collect()
        };
        Some(Self {
            from_size: from.size,
            to_size: to.size,
            copied,
        })
    }

    /// Takes over all bytes.
    pub(crate) fn all(size: usize) -> Self {
        Self {
            from_size: size,
            to_size: size,
            copied: vec![(0..size, 0)],
        }
    }

    /// Converts one value, or one for each CPU, each of whose sizes is a multiple of `align`.
    pub(crate) fn convert<'a>(&self, bytes: &'a [u8], align: usize) -> Cow<'a, [u8]> {
        if self.from_size == self.to_size && self.copied == [(0..self.from_size, 0)] {
            return bytes.into();
        }
        // A size of zero is that of no type.
        let [from, to] =
            [self.from_size, self.to_size].map(|size| size.max(1).next_multiple_of(align));
        let mut converted = vec![0; bytes.len() / from * to];
        for (bytes, converted) in bytes.chunks_exact(from).zip(converted.chunks_exact_mut(to)) {
            for (range, start) in &self.copied {
                let into = converted.get_mut(*start..start + range.len());
                if let (Some(from), Some(into)) = (bytes.get(range.clone()), into) {
                    into.copy_from_slice(from);
                }
            }
        }
        converted.into()
    }
}

#[cfg(test)]
mod tests {
    use headgate_abi::RECORDED_LAYOUTS;

    use super::{Conversion, Layouts};

    const ONE: &str = "map M hash K V\nmap N hash K V\nmap O array u32 W\ntype u32 4\n\
                       type K 8 a 0 b 4\ntype V 8 seen 0 flags 4 zero 6\ntype W 4\n";

    fn conversion(one: &str, other: &str, map: &str) -> Conversion {
        Layouts::parse(one).conversion(&Layouts::parse(other), map)
    }

    #[test]
    fn s185_fields_are_taken_over_by_name_and_size() {
        // Another order, a field more, one less.
        let other = ONE
            .replace("K 8 a 0 b 4", "K 12 b 0 zero 4 a 8")
            .replace("V 8 seen 0 flags 4 zero 6", "V 12 more 0 seen 8");
        let Conversion::Copy { key, value } = conversion(ONE, &other, "M") else {
            panic!("not converted")
        };
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        let there = [5, 6, 7, 8, 0, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(key.convert(&bytes, 1)[..], there);
        assert_eq!(
            value.convert(&bytes, 1)[..],
            [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]
        );
        // One for each CPU.
        let pair = [bytes, bytes].concat();
        let two = value.convert(&pair, 8);
        assert_eq!(two.len(), 32);
        assert_eq!(two[16..28], [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);

        let Conversion::Copy { key, value } = conversion(&other, ONE, "M") else {
            panic!("not converted back")
        };
        assert_eq!(key.convert(&there, 1)[..], bytes);
        let back = value.convert(&[9, 9, 9, 9, 9, 9, 9, 9, 1, 2, 3, 4], 1);
        assert_eq!(back[..], [1, 2, 3, 4, 0, 0, 0, 0]);
    }

    #[test]
    fn s185_what_cannot_be_known_is_not_taken_over() {
        let nothing =
            |one: &str, other: &str, map: &str| conversion(one, other, map) == Conversion::Nothing;
        assert_eq!(conversion(ONE, ONE, "M"), Conversion::Same);
        // Names of types do not count.
        let renamed = ONE.replace('V', "Value");
        assert_eq!(conversion(ONE, &renamed, "N"), Conversion::Same);
        assert!(nothing(ONE, ONE, "P"), "no such map");
        for (from, to) in [
            ("K 8 a 0 b 4", "K 12 a 0 b 4 c 8"),
            ("K 8 a 0 b 4", "K 12 a 0 b 8"),
            ("map M hash", "map M lru-hash"),
            ("type V", "type U"),
            ("V 8 seen 0", "V 8 seen x"),
        ] {
            assert!(nothing(ONE, &ONE.replace(from, to), "M"), "{to}");
        }
        let larger = ONE.replace("W 4", "W 8");
        assert!(
            nothing(ONE, &larger, "O"),
            "an unnamed value of another size"
        );
    }

    #[test]
    fn s185_recorded_layouts_are_read() {
        for (version, text) in RECORDED_LAYOUTS {
            let layouts = Layouts::parse(text);
            let maps = text.lines().filter(|line| line.starts_with("map ")).count();
            assert_eq!(layouts.maps.len(), maps, "version {version}");
        }
    }
}
