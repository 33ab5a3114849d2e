use std::io::Write;

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// Shows a text as a QR code on standard error: standard output is for what scripts read.
pub(super) fn show(text: &str) {
    match draw(text) {
        Ok(picture) => {
            let mut err = std::io::stderr().lock();
            // Where nobody looks, nothing is missed.
            let _ = writeln!(err, "{picture}");
        }
        Err(error) => tracing::warn!("the block is too long for a QR code: {error}"),
    }
}

/// With the least redundancy, as a screen does not get dirty, and light on dark, as most terminals are; readers take the
/// quiet zone of the terminal's own colour, too.
fn draw(text: &str) -> Result<String, qrcode::types::QrError> {
    let code = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::L)?;
    Ok(code.render().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_fits_a_terminal() {
        let picture = draw(&"x".repeat(700)).unwrap();
        let widest = picture.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 105, "{widest} columns");
        assert!(picture.lines().count() <= 53);
    }

    #[test]
    fn what_no_code_can_hold_is_an_error() {
        assert!(draw(&"x".repeat(4000)).is_err());
    }
}
