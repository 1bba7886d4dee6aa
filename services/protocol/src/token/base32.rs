//! Crockford's base 32: no I, L, O or U; what looks alike is read alike.

use super::TokenError;
use zeroize::Zeroizing;

/// Characters in a group.
pub(super) const GROUP: usize = 5;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

pub(super) fn letter(symbol: u8) -> char {
    ALPHABET[usize::from(symbol & 31)].into()
}

/// The symbols (0 to 31) of a text; hyphens and white space do not count.
pub(super) fn read(text: &str) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    let mut symbols = Zeroizing::new(Vec::with_capacity(128));
    let counted = text
        .chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, '-' | '\u{2010}'..='\u{2015}'));
    for (at, character) in counted.enumerate() {
        let plain = match character.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        };
        let symbol = ALPHABET.iter().position(|a| char::from(*a) == plain);
        symbols.push(symbol.ok_or(TokenError::Character {
            character,
            group: at / GROUP + 1,
        })? as u8);
    }
    Ok(symbols)
}

/// Bytes as symbols, most significant bit first, the last one filled up with zero bits.
pub(super) fn symbols(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    let count = (bytes.len() * 8).div_ceil(5);
    Zeroizing::new(
        (0..count)
            .map(|s| (0..5).fold(0, |symbol, b| symbol << 1 | bit(s * 5 + b)))
            .collect(),
    )
}

/// The bytes of symbols; None when the bits left over are a whole byte's worth or not zero.
pub(super) fn bytes(symbols: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(symbols.len() * 5 / 8));
    let (mut bits, mut count) = (0u16, 0);
    for symbol in symbols {
        bits = bits << 5 | u16::from(*symbol);
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (count < 5 && bits == 0).then_some(bytes)
}
