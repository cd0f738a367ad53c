//! Rules, built match by match.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::error::Invalid;
use crate::expression::{Comparison, Expression, MetaKey, NatKind, Register, Verdict};
use crate::selector::{IpFamily, Selector, protocol};
use crate::set::{Element, Set, concatenated_length, to_u32};
use crate::table::Family;
use crate::value::{Key, KeyType, Value};

/// The most bytes of a comment: the kernel keeps 256 bytes of user data, with tag, length and terminating zero.
const COMMENT_MAX: usize = 253;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: a port is given too.
const NAT_PORT: u32 = 2;

/// A rule: matches that must all hold, and what is done then, in the order in which they are called.
///
/// A match names what it needs by itself: in a table of the inet family, `tcp_dport(80)` first asks for TCP, and a match of an
/// IPv4 address for IPv4. What cannot be (a port in an interface's place, TCP and UDP in one rule) is reported when the batch is
/// committed, and nothing is sent then.
///
/// ```
/// use daisy_nftables::{Rule, ct_state};
/// let admitted = Rule::new().iifname("daisy0").ip_daddr_in_set("pods").tcp_dport(80).counter().accept();
/// let replies = Rule::new().ct_state(ct_state::ESTABLISHED | ct_state::RELATED).accept().comment("replies");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    parts: Vec<Part>,
    pub(crate) comment: Option<String>,
    invalid: Option<Invalid>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    NeedFamily(IpFamily),
    NeedProtocol(u8),
    Expression(Expression),
    /// A lookup in a set that lives and dies with the rule.
    Anonymous {
        set: Set,
        elements: Vec<Element>,
        to: Option<Register>,
        inverted: bool,
    },
}

/// How connections are spread over several choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// By a random number for each packet that reaches the rule (in a nat chain: for each connection).
    Random,
    /// In turn.
    Turns,
    /// By the client's IPv4 address: a client's connections get the same choice.
    IpSource,
    /// By the client's IPv6 address: a client's connections get the same choice.
    Ip6Source,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// ICMP or ICMPv6: no route.
    NoRoute,
    /// ICMP or ICMPv6: port unreachable.
    PortUnreachable,
    /// ICMP or ICMPv6: host unreachable.
    HostUnreachable,
    /// ICMP or ICMPv6: administratively prohibited.
    AdminProhibited,
    /// TCP reset (the packet must be TCP).
    TcpReset,
}

/// What a rule becomes in a table of one family.
pub(crate) struct Rendered {
    pub(crate) expressions: Vec<Expression>,
    /// Sets to be made before the rule: a lookup refers to the `n`th by `set_id = n`.
    pub(crate) sets: Vec<(Set, Vec<Element>)>,
}

impl Rule {
    /// A rule that matches everything and does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A comment for people, at most 253 bytes. It does not matter where it is called.
    #[must_use]
    pub fn comment(mut self, text: impl Into<String>) -> Self {
        let text = text.into();
        if text.len() > COMMENT_MAX || text.contains('\0') {
            return self.fail(Invalid::Name { what: "comment", name: text, max: COMMENT_MAX });
        }
        self.comment = Some(text);
        self
    }

    fn fail(mut self, invalid: Invalid) -> Self {
        self.invalid.get_or_insert(invalid);
        self
    }

    /// Any one instruction: for what the builder has no word for.
    #[must_use]
    pub fn expression(mut self, expression: Expression) -> Self {
        self.parts.push(Part::Expression(expression));
        self
    }

    fn need(mut self, selector: Selector) -> Self {
        if let Some(family) = selector.ip_family() {
            self.parts.push(Part::NeedFamily(family));
        }
        if let Some(number) = selector.protocol() {
            self.parts.push(Part::NeedProtocol(number));
        }
        self
    }

    /// Only packets of this IP family.
    #[must_use]
    pub fn family(mut self, family: IpFamily) -> Self {
        self.parts.push(Part::NeedFamily(family));
        self
    }

    /// Only packets of this IP protocol ([`protocol`]).
    #[must_use]
    pub fn l4proto(mut self, number: u8) -> Self {
        self.parts.push(Part::NeedProtocol(number));
        self
    }

    // Comparisons of any selector.

    /// The selector has this value, lies in this network, or in this range.
    #[must_use]
    pub fn matches(self, selector: Selector, key: impl Into<Key>) -> Self {
        self.compare(selector, &key.into(), false)
    }

    /// The selector does not.
    #[must_use]
    pub fn not_matches(self, selector: Selector, key: impl Into<Key>) -> Self {
        self.compare(selector, &key.into(), true)
    }

    fn compare(self, selector: Selector, key: &Key, inverted: bool) -> Self {
        let of = selector.key_type();
        // nft's `eth*`: only the bytes before the star are compared.
        if let Key::One(Value::Name(name)) = key
            && of == KeyType::IfName
            && let Some(prefix) = name.strip_suffix('*')
        {
            return self.compare_prefix(selector, prefix, inverted);
        }
        let (first, last) = match key.bounds(of) {
            Ok(bounds) => bounds,
            Err(invalid) => return self.fail(invalid),
        };
        let comparison = if inverted { Comparison::NotEqual } else { Comparison::Equal };
        let register = Register::FIRST;
        let rule = self.need(selector);
        if let Key::Network(network) = key {
            if network.prefix() == 0 {
                // Every address lies in it: what is left is the family, which is asked for already.
                return if inverted { rule.fail(Invalid::Range(key.to_string())) } else { rule };
            }
            let mask = mask_of(network);
            let rule = rule.expression(selector.load(register));
            let rule = if mask.iter().all(|b| *b == 0xff) {
                rule
            } else {
                let xor = vec![0; mask.len()];
                rule.expression(Expression::Bitwise { from: register, to: register, mask, xor })
            };
            return rule.expression(Expression::Compare { register, comparison, value: first });
        }
        let rule = rule.expression(selector.load(register));
        if first == last {
            rule.expression(Expression::Compare { register, comparison, value: first })
        } else {
            rule.expression(Expression::Range { register, inverted, first, last })
        }
    }

    fn compare_prefix(self, selector: Selector, prefix: &str, inverted: bool) -> Self {
        if prefix.is_empty() || prefix.len() > 15 || prefix.contains('\0') {
            return self.fail(Invalid::Name { what: "interface", name: format!("{prefix}*"), max: 15 });
        }
        let comparison = if inverted { Comparison::NotEqual } else { Comparison::Equal };
        let value = prefix.as_bytes().to_vec();
        self.need(selector).expression(selector.load(Register::FIRST)).expression(Expression::Compare {
            register: Register::FIRST,
            comparison,
            value,
        })
    }

    /// Of the selector's bits in `mask`, exactly those of `value` are set.
    #[must_use]
    pub fn masked(self, selector: Selector, mask: impl Into<Value>, value: impl Into<Value>) -> Self {
        self.compare_masked(selector, &mask.into(), &value.into(), Comparison::Equal)
    }

    /// Any of these bits of the selector is set.
    #[must_use]
    pub fn any_bit(self, selector: Selector, mask: impl Into<Value>) -> Self {
        let mask = mask.into();
        let zero = match mask {
            Value::U8(_) => Value::U8(0),
            Value::U16(_) => Value::U16(0),
            Value::U32(_) | Value::Ipv4(_) | Value::Ipv6(_) | Value::Name(_) => Value::U32(0),
        };
        self.compare_masked(selector, &mask, &zero, Comparison::NotEqual)
    }

    fn compare_masked(self, selector: Selector, mask: &Value, value: &Value, comparison: Comparison) -> Self {
        let of = selector.key_type();
        let (mask, value) = match (mask.encode(of), value.encode(of)) {
            (Ok(mask), Ok(value)) => (mask, value),
            (Err(invalid), _) | (_, Err(invalid)) => return self.fail(invalid),
        };
        let (register, xor) = (Register::FIRST, vec![0; mask.len()]);
        self.need(selector)
            .expression(selector.load(register))
            .expression(Expression::Bitwise { from: register, to: register, mask, xor })
            .expression(Expression::Compare { register, comparison, value })
    }

    /// Loads the selectors one after another, as a concatenation's key.
    fn load_key(self, selectors: &[Selector]) -> Self {
        let mut rule = selectors.iter().fold(self, |rule, selector| rule.need(*selector));
        let mut register = Some(Register::FIRST);
        for selector in selectors {
            let Some(to) = register else { return rule.fail(Invalid::TooLong("the concatenation")) };
            rule = rule.expression(selector.load(to));
            register = to.after(selector.key_type().length());
        }
        rule
    }

    // Sets and maps.

    /// The selectors, together, are a key of the named set.
    #[must_use]
    pub fn in_set(self, selectors: &[Selector], set: impl Into<String>) -> Self {
        self.lookup(selectors, set.into(), false)
    }

    /// They are not.
    #[must_use]
    pub fn not_in_set(self, selectors: &[Selector], set: impl Into<String>) -> Self {
        self.lookup(selectors, set.into(), true)
    }

    fn lookup(self, selectors: &[Selector], set: String, inverted: bool) -> Self {
        self.load_key(selectors).expression(Expression::Lookup {
            set,
            set_id: None,
            key: Register::FIRST,
            to: None,
            to_verdict: false,
            inverted,
        })
    }

    /// The selectors, together, are one of these keys: a set that the rule brings along.
    #[must_use]
    pub fn one_of(self, selectors: &[Selector], elements: impl IntoIterator<Item = impl Into<Element>>) -> Self {
        self.anonymous(selectors, elements, false)
    }

    /// They are none of these.
    #[must_use]
    pub fn none_of(self, selectors: &[Selector], elements: impl IntoIterator<Item = impl Into<Element>>) -> Self {
        self.anonymous(selectors, elements, true)
    }

    fn anonymous(self, selectors: &[Selector], elements: impl IntoIterator<Item = impl Into<Element>>, inverted: bool) -> Self {
        let elements: Vec<Element> = elements.into_iter().map(Into::into).collect();
        let mut set = Set::new("__set%d", selectors.iter().map(|s| s.key_type()));
        set.interval = has_ranges(&elements);
        let mut rule = self.load_key(selectors);
        rule.parts.push(Part::Anonymous { set, elements, to: None, inverted });
        rule
    }

    /// Takes the verdict that the named map holds for the selectors; goes on where it holds none.
    #[must_use]
    pub fn verdict_map(self, selectors: &[Selector], map: impl Into<String>) -> Self {
        self.load_key(selectors).expression(Expression::Lookup {
            set: map.into(),
            set_id: None,
            key: Register::FIRST,
            to: None,
            to_verdict: true,
            inverted: false,
        })
    }

    /// Takes the verdict of the first of these elements that the selectors match: a map that the rule brings along.
    #[must_use]
    pub fn verdict_of(self, selectors: &[Selector], elements: impl IntoIterator<Item = Element>) -> Self {
        let elements: Vec<Element> = elements.into_iter().collect();
        let mut set = Set::new("__map%d", selectors.iter().map(|s| s.key_type())).verdicts();
        set.interval = has_ranges(&elements);
        let mut rule = self.load_key(selectors);
        rule.parts.push(Part::Anonymous { set, elements, to: None, inverted: false });
        rule
    }

    fn spread(self, spread: Spread, choices: usize) -> Self {
        let (to, modulus) = (Register::FIRST, to_u32(choices));
        let hash = |rule: Self, selector: Selector| {
            let from = Register::FIRST.after(4).unwrap_or_default();
            let length = to_u32(selector.key_type().length());
            rule.need(selector).expression(selector.load(from)).expression(Expression::Hash {
                from,
                length,
                to,
                modulus,
                // A fixed seed: a client keeps its choice when the rule is made anew.
                seed: Some(0x6461_6973),
                offset: 0,
            })
        };
        match spread {
            Spread::Random => self.expression(Expression::Numgen { to, modulus, random: true, offset: 0 }),
            Spread::Turns => self.expression(Expression::Numgen { to, modulus, random: false, offset: 0 }),
            Spread::IpSource => hash(self, Selector::IpSaddr),
            Spread::Ip6Source => hash(self, Selector::Ip6Saddr),
        }
    }

    /// Takes one of these verdicts. With none to choose from, goes on.
    #[must_use]
    pub fn spread_verdicts(self, spread: Spread, verdicts: impl IntoIterator<Item = Verdict>) -> Self {
        let elements: Vec<Element> = (0u32..).zip(verdicts).map(|(n, v)| Element::new(n).verdict(v)).collect();
        if elements.is_empty() {
            return self;
        }
        let mut rule = self.spread(spread, elements.len());
        let set = Set::new("__map%d", [KeyType::Integer]).verdicts();
        rule.parts.push(Part::Anonymous { set, elements, to: None, inverted: false });
        rule
    }

    /// Translates the destination to one of these addresses and ports, all of one family (nat chains at prerouting or output).
    /// With none to choose from, goes on.
    #[must_use]
    pub fn spread_dnat(self, spread: Spread, targets: &[(IpAddr, u16)]) -> Self {
        let Some((first, _)) = targets.first() else { return self };
        let family = IpFamily::of(*first);
        let address_type = Selector::saddr(family).key_type();
        let elements = (0u32..).zip(targets).map(|(n, (a, p))| Element::new(n).values([(*a).into(), (*p).into()])).collect();
        let mut rule = self.family(family).spread(spread, targets.len());
        let set = Set::new("__map%d", [KeyType::Integer]).values([address_type, KeyType::InetService]);
        rule.parts.push(Part::Anonymous { set, elements, to: Some(Register::FIRST), inverted: false });
        let port = Register::FIRST.after(address_type.length());
        rule.nat(NatKind::Destination, family, Some(Register::FIRST), port)
    }

    /// Translates the destination to the address and port that the named map holds for the selectors (nat chains at
    /// prerouting or output); goes on where it holds none.
    #[must_use]
    pub fn dnat_map(self, selectors: &[Selector], map: impl Into<String>, family: IpFamily) -> Self {
        let address_type = Selector::saddr(family).key_type();
        let port = Register::FIRST.after(address_type.length());
        self.family(family)
            .load_key(selectors)
            .expression(Expression::Lookup {
                set: map.into(),
                set_id: None,
                key: Register::FIRST,
                to: Some(Register::FIRST),
                to_verdict: false,
                inverted: false,
            })
            .nat(NatKind::Destination, family, Some(Register::FIRST), port)
    }

    pub(crate) fn nat(self, kind: NatKind, family: IpFamily, address: Option<Register>, port: Option<Register>) -> Self {
        let flags = if port.is_some() { NAT_PORT } else { 0 };
        self.expression(Expression::Nat { kind, family: u32::from(family.number()), address, port, flags })
    }

    pub(crate) fn set_meta(self, key: MetaKey, bytes: Vec<u8>) -> Self {
        let register = Register::FIRST;
        self.expression(Expression::Load { bytes, to: register }).expression(Expression::MetaSet { key, from: register })
    }

    /// What the rule is in a table of this family.
    pub(crate) fn render(&self, table_family: Family) -> Result<Rendered, Invalid> {
        if let Some(invalid) = &self.invalid {
            return Err(invalid.clone());
        }
        let mut out = Rendered { expressions: Vec::new(), sets: Vec::new() };
        let mut known_family = match table_family {
            Family::Ip => Some(IpFamily::V4),
            Family::Ip6 => Some(IpFamily::V6),
            Family::Inet | Family::Arp | Family::Bridge | Family::Netdev => None,
        };
        let mut known_protocol = None;
        for part in &self.parts {
            match part {
                Part::NeedFamily(family) => match known_family {
                    Some(known) if known == *family => {}
                    Some(known) => return Err(contradiction(format!("{family:?}"), format!("{known:?}"))),
                    None => {
                        known_family = Some(*family);
                        let (key, value) = if table_family == Family::Inet {
                            (MetaKey::NfProto, vec![family.number()])
                        } else {
                            (MetaKey::Protocol, family.ethertype().to_be_bytes().to_vec())
                        };
                        require(&mut out.expressions, key, value);
                    }
                },
                Part::NeedProtocol(number) => match known_protocol {
                    Some(known) if known == *number => {}
                    Some(known) => {
                        return Err(contradiction(format!("IP protocol {number}"), format!("IP protocol {known}")));
                    }
                    None => {
                        known_protocol = Some(*number);
                        require(&mut out.expressions, MetaKey::L4Proto, vec![*number]);
                    }
                },
                Part::Expression(expression) => out.expressions.push(expression.clone()),
                Part::Anonymous { set, elements, to, inverted } => {
                    out.expressions.push(Expression::Lookup {
                        set: set.name.clone(),
                        set_id: Some(to_u32(out.sets.len())),
                        key: Register::FIRST,
                        to: *to,
                        to_verdict: set.data.is_some() && to.is_none(),
                        inverted: *inverted,
                    });
                    out.sets.push((set.clone(), elements.clone()));
                }
            }
        }
        if self.parts.iter().any(|p| matches!(p, Part::Anonymous { set, .. } if concatenated_length(&set.key) > 64)) {
            return Err(Invalid::TooLong("the concatenation"));
        }
        Ok(out)
    }
}

fn contradiction(asked: String, known: String) -> Invalid {
    Invalid::Contradiction { asked, known }
}

fn require(expressions: &mut Vec<Expression>, key: MetaKey, value: Vec<u8>) {
    expressions.push(Expression::Meta { key, to: Register::FIRST });
    expressions.push(Expression::Compare { register: Register::FIRST, comparison: Comparison::Equal, value });
}

fn has_ranges(elements: &[Element]) -> bool {
    elements.iter().flat_map(|e| &e.key).any(|k| match k {
        Key::One(_) => false,
        Key::Network(_) | Key::Range(..) => true,
    })
}

fn mask_of(network: &IpNetwork) -> Vec<u8> {
    match network.mask() {
        IpAddr::V4(mask) => mask.octets().to_vec(),
        IpAddr::V6(mask) => mask.octets().to_vec(),
    }
}

/// The protocol of a port match that both TCP and UDP have.
pub(crate) fn port_selector(number: u8, source: bool) -> Selector {
    match (number, source) {
        (protocol::TCP, true) => Selector::TcpSport,
        (protocol::TCP, false) => Selector::TcpDport,
        (protocol::UDP, true) => Selector::UdpSport,
        (protocol::UDP, false) => Selector::UdpDport,
        (_, true) => Selector::Sport,
        (_, false) => Selector::Dport,
    }
}
