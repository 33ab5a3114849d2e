//! Command lines of Windows, and security identifiers.

use sha1::{Digest, Sha1};

/// The words of a command line, as programs are told them (Microsoft's "Parsing C command-line arguments").
pub(super) fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let (mut quoted, mut backslashes) = (false, 0);
    for c in line.chars() {
        if c == '\\' {
            backslashes += 1;
            continue;
        }
        if backslashes > 0 {
            // They mean something in front of quotes only.
            let kept = if c == '"' { backslashes / 2 } else { backslashes };
            word.get_or_insert_default().extend(std::iter::repeat_n('\\', kept));
        }
        let literal = backslashes % 2 == 1;
        backslashes = 0;
        match c {
            '"' if !literal => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' | '\t' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if backslashes > 0 {
        word.get_or_insert_default().extend(std::iter::repeat_n('\\', backslashes));
    }
    words.extend(word);
    words
}

/// The security identifier of a service's own account, `NT SERVICE\NAME`: 80 stands for services, and what follows is the
/// SHA-1 of the name in capitals and in UTF-16, in five numbers (as `sc showsid NAME` prints it). Known before the
/// service is there, when the system does not know the account by its name yet.
pub(super) fn service_sid(id: &str) -> String {
    let name: Vec<u8> = id.to_uppercase().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let hash = Sha1::digest(name);
    let (numbers, _) = hash.as_chunks::<4>();
    numbers
        .iter()
        .fold("S-1-5-80".to_owned(), |sid, number| format!("{sid}-{}", u32::from_le_bytes(*number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_has_the_words_that_were_quoted() {
        for (line, words) in [
            (r"a.exe service run", &["a.exe", "service", "run"][..]),
            (
                r#""C:\Program Files\a\a.exe"  --config "C:\x y\c.toml""#,
                &[r"C:\Program Files\a\a.exe", "--config", r"C:\x y\c.toml"],
            ),
            (r#""C:\end with\\" x"#, &[r"C:\end with\", "x"]),
            (r#"a \"b\\\"c d\"#, &["a", r#""b\"c"#, r"d\"]),
            (r#"a "" b"#, &["a", "", "b"]),
            ("", &[]),
        ] {
            assert_eq!(split(line), words, "{line}");
        }
    }

    #[test]
    fn the_identifier_of_a_service_is_that_of_the_system() {
        // TrustedInstaller is there on every Windows (Microsoft's "Well-known SIDs").
        let known = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464";
        assert_eq!(service_sid("TrustedInstaller"), known);
    }
}
