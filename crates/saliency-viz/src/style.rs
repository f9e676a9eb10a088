use crate::blend::check_alpha;
use crate::colormap::Colormap;
use crate::error::{Error, Result};

const PANEL: (u32, u32) = (64, 2048);

/// How the pictures look.
///
/// ```
/// use saliency_viz::{Colormap, Style};
///
/// let style = Style { map: Colormap::Inferno, ..Style::default() };
/// assert_eq!(style.overlay, Colormap::Jet);
/// assert_eq!(style.alpha, 0.5);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Style {
    /// Colormap of a map on its own; `hot` by default.
    pub map: Colormap,
    /// Colormap of a map over the grey photograph; `jet` by default.
    pub overlay: Colormap,
    /// Opacity of the map over the photograph, 0 to 1; 0.5 by default.
    pub alpha: f32,
    /// Longest side of a panel in pixels, 64 to 2048; 384 by default.
    pub panel: u32,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            map: Colormap::Hot,
            overlay: Colormap::Jet,
            alpha: 0.5,
            panel: 384,
        }
    }
}

impl Style {
    pub(crate) fn check(&self) -> Result<()> {
        check_alpha(self.alpha)?;
        if (PANEL.0..=PANEL.1).contains(&self.panel) {
            Ok(())
        } else {
            Err(Error::PanelSize {
                found: self.panel,
                range: PANEL,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_are_checked() {
        assert!(Style::default().check().is_ok());
        let style = Style {
            alpha: 2.0,
            ..Style::default()
        };
        assert!(matches!(style.check(), Err(Error::Alpha(_))));
        let style = Style {
            panel: 0,
            ..Style::default()
        };
        assert_eq!(
            style.check().unwrap_err().to_string(),
            "a panel of 0 pixels: give 64 to 2048 pixels"
        );
    }
}
