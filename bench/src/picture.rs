//! Bar charts as SVG, readable on light and on dark pages.

use std::fmt::Write as _;

/// A group of bars under one heading.
#[derive(Debug, Clone)]
pub struct Group {
    /// The heading.
    pub title: String,
    /// Name and value of each bar.
    pub bars: Vec<(String, f64)>,
}

const WIDTH: f64 = 720.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 130.0;
const LONGEST: f64 = 490.0;
const ROW: f64 = 20.0;
const HEADING: f64 = 30.0;
const TOP: f64 = 56.0;

/// One picture of several groups, each with a scale of its own: what is compared
/// is the bars of one group.
pub fn bars(title: &str, unit: &str, groups: &[Group]) -> String {
    let rows: f64 = groups.iter().map(|group| HEADING + ROW * group.bars.len() as f64).sum();
    let height = TOP + rows + 14.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{title}</title>\n{STYLE}\
         <text x=\"12\" y=\"26\" class=\"title\">{title}</text>\n\
         <text x=\"12\" y=\"44\" class=\"unit\">{unit}</text>\n",
        title = escape(title),
        unit = escape(unit),
    );
    let mut y = TOP;
    for group in groups {
        let most = group.bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        // Writing to a String does not fail.
        let heading = escape(&group.title);
        let _ =
            writeln!(svg, "<text x=\"12\" y=\"{}\" class=\"heading\">{heading}</text>", y + 20.0);
        y += HEADING;
        for (name, value) in &group.bars {
            let length = if most > 0.0 { (value / most * LONGEST).max(1.0) } else { 1.0 };
            let is_ours = ["ferrun", "ferrun's", "image-tool"].contains(&name.as_str());
            let class = if is_ours { "ours" } else { "other" };
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" class=\"name\">{}</text>\
                 <rect x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" height=\"14\" rx=\"2\" class=\"{class}\"/>\
                 <text x=\"{:.1}\" y=\"{}\" class=\"value\">{}</text>",
                LEFT - 8.0,
                y + 12.0,
                escape(name),
                y + 1.0,
                LEFT + length + 6.0,
                y + 12.0,
                short(*value),
            );
            y += ROW;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

const STYLE: &str = "<style>\n\
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }\n\
    .title { font-size: 17px; font-weight: 600 }\n\
    .heading { font-weight: 600 }\n\
    .unit, .name, .value { font-size: 12px; fill: #59636e }\n\
    .name { text-anchor: end }\n\
    .ours { fill: #c2571a }\n\
    .other { fill: #8c959f }\n\
    @media (prefers-color-scheme: dark) {\n\
    text { fill: #e6edf3 }\n\
    .unit, .name, .value { fill: #9198a1 }\n\
    .ours { fill: #f0883e }\n\
    .other { fill: #656c76 }\n\
    }\n\
    </style>\n";

/// Three significant digits.
pub fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_of_each_group_has_the_full_length() {
        let group = |values: [f64; 2]| Group {
            title: "run".into(),
            bars: vec![("ferrun".into(), values[0]), ("crun".into(), values[1])],
        };
        let svg = bars("a < b", "ms", &[group([1.0, 4.0]), group([30.0, 15.0])]);
        assert_eq!(svg.matches("width=\"490.0\"").count(), 2);
        assert!(svg.contains("width=\"122.5\" height=\"14\" rx=\"2\" class=\"ours\""));
        assert!(svg.contains("width=\"245.0\" height=\"14\" rx=\"2\" class=\"other\""));
        assert!(svg.contains("<title>a &lt; b</title>"));
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!([0.234, 2.345, 23.45, 234.5].map(short), ["0.23", "2.35", "23.4", "234"]);
    }
}
