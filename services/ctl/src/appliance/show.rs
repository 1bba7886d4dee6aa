//! Answers of the bus for people and programs: JSON, tables, sizes, times.

use contract::{Fields, FieldsExt};
use serde_json::{Map, Value as Json, json};
use zbus::zvariant::{OwnedValue, Value};

/// An `a{sv}` as a JSON object. Byte strings become hexadecimal, lists of byte strings (paths)
/// text where they are UTF-8, else `{"hex": …}`.
pub(super) fn object(fields: &Fields) -> Json {
    let mut members: Vec<_> = fields.iter().collect();
    members.sort_by_key(|(name, _)| *name);
    Json::Object(
        members
            .into_iter()
            .map(|(k, v)| (k.clone(), value(v)))
            .collect::<Map<_, _>>(),
    )
}

fn value(value: &Value<'_>) -> Json {
    match value {
        Value::U8(n) => json!(n),
        Value::Bool(b) => json!(b),
        Value::I16(n) => json!(n),
        Value::U16(n) => json!(n),
        Value::I32(n) => json!(n),
        Value::U32(n) => json!(n),
        Value::I64(n) => json!(n),
        Value::U64(n) => json!(n),
        Value::F64(n) => json!(n),
        Value::Str(s) => json!(s.as_str()),
        Value::ObjectPath(p) => json!(p.as_str()),
        Value::Value(inner) => self::value(inner),
        Value::Array(array) => match bytes(value) {
            Some(bytes) => json!(data_encoding::HEXLOWER.encode(&bytes)),
            None => json!(array.iter().map(element).collect::<Vec<_>>()),
        },
        Value::Dict(dict) => Json::Object(
            dict.iter()
                .map(|(k, v)| {
                    (
                        k.downcast_ref::<&str>().unwrap_or_default().to_owned(),
                        self::value(v),
                    )
                })
                .collect(),
        ),
        other => json!(other.to_string()),
    }
}

fn element(item: &Value<'_>) -> Json {
    match bytes(item).map(String::from_utf8) {
        Some(Ok(text)) => json!(text),
        Some(Err(odd)) => json!({ "hex": data_encoding::HEXLOWER.encode(odd.as_bytes()) }),
        None => value(item),
    }
}

fn bytes(value: &Value<'_>) -> Option<Vec<u8>> {
    match value {
        Value::Array(a) if a.element_signature().to_string() == "y" => {
            OwnedValue::try_from(value.try_clone().ok()?)
                .ok()?
                .try_into()
                .ok()
        }
        _ => None,
    }
}

/// A member as text; "-" when it is absent.
pub(super) fn text(fields: &Fields, name: &str) -> String {
    match fields.get(name).map(|v| value(v)) {
        None => "-".into(),
        Some(Json::String(s)) if s.is_empty() => "-".into(),
        Some(Json::String(s)) => s,
        Some(Json::Array(items)) => items
            .iter()
            .map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(", "),
        Some(other) => other.to_string(),
    }
}

/// A member in bytes as a size; "-" when it is absent.
pub(super) fn size_of(fields: &Fields, name: &str) -> String {
    match fields.optional::<u64>(name) {
        Ok(Some(bytes)) => size(bytes),
        _ => "-".into(),
    }
}

/// A member in Unix seconds as local time.
pub(super) fn time_of(fields: &Fields, name: &str) -> String {
    match fields.optional::<i64>(name) {
        Ok(Some(seconds)) if seconds != 0 => time(seconds),
        _ => "-".into(),
    }
}

/// Bytes as people read them: 1000-based, three digits.
pub(crate) fn size(bytes: u64) -> String {
    let mut scaled = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if scaled < 999.5 {
            let digits = if unit == "B" || scaled >= 99.5 {
                0
            } else if scaled >= 9.95 {
                1
            } else {
                2
            };
            return format!("{scaled:.digits$} {unit}");
        }
        scaled /= 1000.0;
    }
    format!("{scaled:.2} PB")
}

/// How many there are of what: `1 entry`, `2 entries`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}s"),
    }
}

/// Unix seconds as local time to the second, with how far that is from UTC.
pub(crate) fn time(seconds: i64) -> String {
    time_in(seconds, jiff::tz::TimeZone::system())
}

fn time_in(seconds: i64, zone: jiff::tz::TimeZone) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| "-".into(),
        |time| {
            let zoned = time.to_zoned(zone);
            zoned.strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
        },
    )
}

/// Text from elsewhere on one line of a terminal, which takes no orders from it.
fn plain(text: &str) -> String {
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// Rows under a header, columns as wide as their widest cell, up to 60.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        println!("none");
        return;
    }
    let plain_row = |row: &Vec<String>| row.iter().map(|cell| plain(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(plain_row).collect();
    // a cell may be longer; it then only pushes its own row
    let width = |column: usize| {
        let cells = rows.iter().map(|r| r[column].chars().count());
        cells
            .chain([header[column].len()])
            .max()
            .unwrap_or(0)
            .min(60)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<_> = cells
            .iter()
            .zip(&widths)
            .map(|(c, w)| format!("{c:<w$}"))
            .collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(header.to_vec());
    for row in &rows {
        line(row.iter().map(String::as_str).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::field;

    #[test]
    fn sizes_keep_three_digits() {
        let shown: Vec<_> = [0, 999, 1000, 12_345, 999_600, 40_000_000, 3_744_000_000]
            .map(size)
            .into();
        assert_eq!(
            shown,
            [
                "0 B", "999 B", "1.00 kB", "12.3 kB", "1.00 MB", "40.0 MB", "3.74 GB"
            ]
        );
    }

    #[test]
    fn a_time_says_its_zone() {
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(time_in(1_801_411_200, zone), "2027-01-31 18:00:00 +02:00");
        assert_eq!(time_in(i64::MAX, jiff::tz::TimeZone::UTC), "-");
    }

    #[test]
    fn one_is_not_many() {
        let shown =
            [(0, "chunk"), (1, "chunk"), (1, "entry"), (2, "entry")].map(|(n, of)| count(n, of));
        assert_eq!(shown, ["0 chunks", "1 chunk", "1 entry", "2 entries"]);
    }

    #[test]
    fn a_terminal_takes_no_orders_from_a_cell() {
        assert_eq!(
            plain("a\u{1b}[2J\nb \u{9b}m ü"),
            "a\\u{1b}[2J\\nb \\u{9b}m ü"
        );
    }

    #[test]
    fn byte_strings_paths_and_nested_objects_become_json() {
        let fields = Fields::from([
            ("fingerprint".to_owned(), field(vec![0xabu8, 1])),
            (
                "paths".to_owned(),
                field(vec![b"/srv".to_vec(), vec![0xff]]),
            ),
            (
                "stages".to_owned(),
                field(vec![Fields::from([("name".to_owned(), field("backup"))])]),
            ),
        ]);
        assert_eq!(
            object(&fields),
            json!({"fingerprint": "ab01", "paths": ["/srv", {"hex": "ff"}], "stages": [{"name": "backup"}]})
        );
    }
}
