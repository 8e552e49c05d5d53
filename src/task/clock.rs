//! Today's date for chat templates that print it (`strftime_now`), in UTC.
//!
//! A template that prints the date makes prompts differ from day to day;
//! `SOURCE_DATE_EPOCH` (seconds since 1970) pins it for reproducible runs.

use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: i64 = 86_400;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];

/// The present moment in the format of C's `strftime`.
pub(super) fn format_now(format: &str) -> Result<String, String> {
    let pinned = std::env::var("SOURCE_DATE_EPOCH").ok();
    let seconds = match pinned {
        Some(text) => text
            .trim()
            .parse()
            .map_err(|_| format!("SOURCE_DATE_EPOCH=`{text}`: expected seconds since 1970"))?,
        None => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs() as i64),
    };
    format_at(seconds, format)
}

fn format_at(seconds: i64, format: &str) -> Result<String, String> {
    let days = seconds.div_euclid(SECONDS_PER_DAY);
    let second_of_day = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
    );
    let (year, month, day) = civil_from_days(days);
    let month_name = MONTHS[month as usize - 1];
    let weekday = WEEKDAYS[days.rem_euclid(7) as usize];
    let mut shown = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            shown.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => shown.push_str(&format!("{year:04}")),
            Some('y') => shown.push_str(&format!("{:02}", year.rem_euclid(100))),
            Some('m') => shown.push_str(&format!("{month:02}")),
            Some('d') => shown.push_str(&format!("{day:02}")),
            Some('e') => shown.push_str(&format!("{day:2}")),
            Some('B') => shown.push_str(month_name),
            Some('b' | 'h') => shown.push_str(&month_name[..3]),
            Some('A') => shown.push_str(weekday),
            Some('a') => shown.push_str(&weekday[..3]),
            Some('H') => shown.push_str(&format!("{hour:02}")),
            Some('I') => shown.push_str(&format!("{:02}", (hour + 11) % 12 + 1)),
            Some('p') => shown.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('M') => shown.push_str(&format!("{minute:02}")),
            Some('S') => shown.push_str(&format!("{second:02}")),
            Some('F') => shown.push_str(&format!("{year:04}-{month:02}-{day:02}")),
            Some('T') => shown.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('%') => shown.push('%'),
            Some('-') => match chars.next() {
                Some('d') => shown.push_str(&day.to_string()),
                Some('m') => shown.push_str(&month.to_string()),
                other => return Err(unknown(&format!("-{}", other.unwrap_or(' ')))),
            },
            other => return Err(unknown(&other.map(String::from).unwrap_or_default())),
        }
    }
    Ok(shown)
}

fn unknown(directive: &str) -> String {
    format!("strftime_now: unknown directive `%{directive}`")
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible
/// low-level date algorithms").
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_print_as_strftime_prints_them() {
        let leap_day = 1_709_210_096; // 2024-02-29 12:34:56 UTC, a Thursday
        for (format, shown) in [
            ("%d %b %Y", "29 Feb 2024"),
            (
                "%A, %B %-d, %y %% %H:%M:%S %I %p",
                "Thursday, February 29, 24 % 12:34:56 12 PM",
            ),
            ("%F %T %a", "2024-02-29 12:34:56 Thu"),
        ] {
            assert_eq!(format_at(leap_day, format).as_deref(), Ok(shown));
        }
        assert_eq!(format_at(0, "%F %A").as_deref(), Ok("1970-01-01 Thursday"));
        assert_eq!(format_at(-1, "%F %T").as_deref(), Ok("1969-12-31 23:59:59"));
        assert!(format_at(0, "%Q").is_err());
        assert!(format_at(0, "%").is_err());
    }
}
