//! Text of others on its way to somebody's terminal: what a registry says, names in an
//! image, paths in its layers.
//!
//! Whoever wrote it chose the bytes, and a terminal obeys some of them: they clear the
//! screen, change its title, hide or reorder what stands there.

/// `text` with all that a terminal would not simply show written out, as in `\u{1b}`. A
/// line feed is one of these: a text is no more lines than its reader takes it for.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for part in text.split_inclusive(['"', '\'', '\\']) {
        // Marks that Rust would write out too, which do no harm.
        let plain = part.trim_end_matches(['"', '\'', '\\']);
        shown.extend(plain.escape_debug());
        shown.push_str(part.get(plain.len()..).unwrap_or_default());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        for (text, shown) in [
            ("mounts[0].source: \"/a b\": it's \\n", "mounts[0].source: \"/a b\": it's \\n"),
            ("Überwachungsdämon 監視 हिन्दी", "Überwachungsdämon 監視 हिन्दी"),
            ("\u{1b}[2J\u{7}\r\u{8}", "\\u{1b}[2J\\u{7}\\r\\u{8}"),
            ("one\ntwo\tthree", "one\\ntwo\\tthree"),
            ("\u{7f}\u{9b}31m", "\\u{7f}\\u{9b}31m"),
            // These turn the reading direction about, or cannot be seen.
            ("a\u{202e}b\u{2066}c\u{200b}d\u{feff}", "a\\u{202e}b\\u{2066}c\\u{200b}d\\u{feff}"),
            ("\u{2028}\u{e0041}", "\\u{2028}\\u{e0041}"),
            ("", ""),
        ] {
            assert_eq!(printable(text), shown);
            assert_eq!(printable(shown), shown, "once is enough");
        }
    }
}
