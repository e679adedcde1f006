//! Sizes of memory as xl takes them: `256`, `256m`, `1G`, `65536k`.

/// A size in KiB. Without a letter (`b`, `k`, `m`, `g`, `t`) it is in MiB.
pub fn kib(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let times = |unit: u64| number.checked_mul(unit);
    match &text[digits.len()..] {
        "b" | "B" => Some(number >> 10),
        "k" | "K" => Some(number),
        "" | "m" | "M" => times(1 << 10),
        "g" | "G" => times(1 << 20),
        "t" | "T" => times(1 << 30),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let sizes = ["256", "256m", "1G", "65536k", "8192b", "2t", "0"].map(kib);
        let wanted = [256 << 10, 256 << 10, 1 << 20, 65_536, 8, 2 << 30, 0];
        assert_eq!(sizes, wanted.map(Some));
        for wrong in [
            "",
            "m",
            "-1",
            "1mb",
            "1.5g",
            "12x",
            "99999999999999999999",
            "99999999999999t",
        ] {
            assert_eq!(kib(wrong), None, "{wrong}");
        }
    }
}
