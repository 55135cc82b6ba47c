//! Two listings of our table, line by line: what would be there and is not, and what is and would not be.
//!
//! Both come from the same nft, so nothing of its spelling, which changes between versions, is known here.
//! What differs is the longest common subsequence's rest; tables of ours have a few dozen lines.

use serde::Serialize;

use super::routing::Routing;

/// What was found out; nothing, where all is as it would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub differences: Vec<Difference>,
}

/// One thing that is not as it would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Difference {
    /// Nothing was applied, or somebody flushed all rules.
    NoTable,
    /// What would be there.
    Missing { place: String, line: String },
    /// What nobody asked for.
    Foreign { place: String, line: String },
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Difference::NoTable => write!(f, "missing: table {}", super::ruleset::TABLE),
            Difference::Missing { place, line } => write!(f, "missing in {place}: {line}"),
            Difference::Foreign { place, line } => write!(f, "foreign in {place}: {line}"),
        }
    }
}

impl Comparison {
    /// Whether what is there is what would be.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty()
    }

    pub(super) fn tables(wanted: &str, found: &str) -> Comparison {
        let (wanted, found) = (place_lines(wanted), place_lines(found));
        let common = common_lengths(&wanted, &found);
        let (mut row, mut column) = (0, 0);
        let mut differences = Vec::new();
        while row < wanted.len() || column < found.len() {
            match (wanted.get(row), found.get(column)) {
                (Some(one), Some(other)) if one == other => (row, column) = (row + 1, column + 1),
                (Some((place, line)), other)
                    if other.is_none() || common[row + 1][column] >= common[row][column + 1] =>
                {
                    differences.push(Difference::Missing { place: place.clone(), line: line.clone() });
                    row += 1;
                }
                (_, Some((place, line))) => {
                    differences.push(Difference::Foreign { place: place.clone(), line: line.clone() });
                    column += 1;
                }
                (_, None) => break,
            }
        }
        Comparison { differences }
    }

    /// Adds what differs of the rules and routes of a family.
    pub(super) fn add_routing(&mut self, wanted: &Routing, found: &Routing) {
        let place =
            |line: &str| if line.contains(" rule ") { "the rules of ip" } else { "the routes of ip" }.to_owned();
        for line in wanted.without(found).lines("add") {
            self.differences.push(Difference::Missing { place: place(&line), line });
        }
        for line in found.without(wanted).lines("add") {
            self.differences.push(Difference::Foreign { place: place(&line), line });
        }
    }
}

/// Each line with the chain or set that it stands in.
fn place_lines(listing: &str) -> Vec<(String, String)> {
    let mut place = String::new();
    let mut lines = Vec::new();
    for line in listing.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "}") {
        if let Some(opened) = line.strip_suffix(" {") {
            lines.push(("the table".to_owned(), opened.to_owned()));
            opened.clone_into(&mut place);
        } else {
            lines.push((place.clone(), line.to_owned()));
        }
    }
    lines
}

/// At (row, column): how many lines are common to what follows in both.
fn common_lengths<T: PartialEq>(wanted: &[T], found: &[T]) -> Vec<Vec<usize>> {
    let mut lengths = vec![vec![0; found.len() + 1]; wanted.len() + 1];
    for row in (0..wanted.len()).rev() {
        for column in (0..found.len()).rev() {
            lengths[row][column] = if wanted[row] == found[column] {
                lengths[row + 1][column + 1] + 1
            } else {
                lengths[row + 1][column].max(lengths[row][column + 1])
            };
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "table inet goanyway {\n\tset clients_v4 {\n\t\ttype ipv4_addr\n\t\telements = { 10.7.0.0/16 }\n\t}\n\n\
        \tchain web {\n\t\ttype nat hook prerouting priority -105; policy accept;\n\t\tiifname != \"eth1\" return\n\
        \t\ttcp dport 80 redirect to :3129\n\t}\n}\n";

    fn told(found: &str) -> Vec<String> {
        Comparison::tables(TABLE, found).differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_is_the_same() {
        assert!(Comparison::tables(TABLE, TABLE).is_same());
    }

    #[test]
    fn what_is_missing_and_what_is_foreign_is_told_with_its_place() {
        let gone = TABLE.replace("\t\tiifname != \"eth1\" return\n", "");
        assert_eq!(told(&gone), ["missing in chain web: iifname != \"eth1\" return"]);
        let more = TABLE.replace("\t\ttcp dport 80", "\t\taccept\n\t\ttcp dport 80");
        assert_eq!(told(&more), ["foreign in chain web: accept"]);
        let changed = TABLE.replace("10.7.0.0/16", "10.8.0.0/16");
        let expected = [
            "missing in set clients_v4: elements = { 10.7.0.0/16 }",
            "foreign in set clients_v4: elements = { 10.8.0.0/16 }",
        ];
        assert_eq!(told(&changed), expected);
        let chain = TABLE.replace("}\n}\n", "}\n\tchain mine {\n\t\taccept\n\t}\n}\n");
        assert_eq!(told(&chain), ["foreign in the table: chain mine", "foreign in chain mine: accept"]);
    }

    #[test]
    fn another_order_is_another_ruleset() {
        let (one, two) = ("\t\tiifname != \"eth1\" return\n", "\t\ttcp dport 80 redirect to :3129\n");
        let turned = TABLE.replace(&format!("{one}{two}"), &format!("{two}{one}"));
        assert_eq!(told(&turned).len(), 2, "{:?}", told(&turned));
    }
}
