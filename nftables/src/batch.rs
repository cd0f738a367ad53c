//! Transactions: operations that the kernel takes all together or not at all.

use crate::error::{Error, Invalid, Rejection};
use crate::rule::Rule;
use crate::set::{Element, Set, to_u32, write_elements};
use crate::socket::Socket;
use crate::sys::{self, msg};
use crate::table::{Chain, Table};
use crate::wire::{MessageHeader, Writer};

/// `NFT_NAME_MAXLEN` without the terminating zero.
const NAME_MAX: usize = 255;

/// A transaction. Operations take effect in the order in which they are added, so that an object can be used right after the
/// operation that adds it. Nothing happens before [`Batch::commit`], and then all of it or nothing, with no packet seeing a
/// state in between.
///
/// ```no_run
/// use daisy_nftables::{Batch, Chain, ChainType, Hook, KeyType, Rule, Set, Socket, Table, priority};
/// # fn main() -> Result<(), daisy_nftables::Error> {
/// let table = Table::inet("example");
/// let closed = Set::new("closed", [KeyType::InetService]);
/// let mut batch = Batch::new();
/// batch
///     .replace_table(&table)
///     .add_chain(&table, &Chain::base("input", ChainType::Filter, Hook::Input, priority::FILTER))
///     .add_set(&table, &closed)
///     .add_elements(&table, &closed, [23u16, 25])
///     .add_rule(&table, "input", &Rule::new().in_set(&[daisy_nftables::Selector::TcpDport], "closed").counter().drop());
/// batch.commit(&mut Socket::open()?)
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Batch {
    operations: Vec<Operation>,
    next_set_id: u32,
    invalid: Option<(String, Invalid)>,
}

#[derive(Debug, Clone)]
struct Operation {
    name: String,
    messages: Vec<Message>,
}

#[derive(Debug, Clone)]
struct Message {
    kind: u16,
    flags: u16,
    family: u8,
    attributes: Vec<u8>,
}

fn checked<'a>(what: &'static str, name: &'a str) -> Result<&'a str, Invalid> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
        return Err(Invalid::Name { what, name: name.to_owned(), max: NAME_MAX });
    }
    Ok(name)
}

/// The attributes that `write` writes.
fn attributes(write: impl FnOnce(&mut Writer) -> Result<(), Invalid>) -> Result<Vec<u8>, Invalid> {
    let mut w = Writer::new();
    write(&mut w)?;
    w.finish().ok_or(Invalid::TooLong("an attribute"))
}

impl Batch {
    /// A transaction of no operations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it has no operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty() && self.invalid.is_none()
    }

    /// How many operations it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    fn add(&mut self, name: String, messages: Result<Vec<Message>, Invalid>) -> &mut Self {
        match messages {
            Ok(messages) => self.operations.push(Operation { name, messages }),
            Err(invalid) => {
                self.invalid.get_or_insert((name, invalid));
            }
        }
        self
    }

    fn one(
        &mut self,
        (verb, what, object): (&str, &'static str, &str),
        (table, kind, flags): (&Table, u16, u16),
        write: impl FnOnce(&mut Writer) -> Result<(), Invalid>,
    ) -> &mut Self {
        let object_name = if object.is_empty() { String::new() } else { format!(" {object}") };
        let name = format!("{verb} {what} {table}{object_name}");
        let message = checked("table", &table.name).and_then(|_| {
            if !object.is_empty() {
                checked(what, object)?;
            }
            Ok(vec![Message { kind, flags, family: table.family.number(), attributes: attributes(write)? }])
        });
        self.add(name, message)
    }

    // Tables.

    /// Adds a table; one that exists stays as it is.
    pub fn add_table(&mut self, table: &Table) -> &mut Self {
        self.one(("add", "table", ""), (table, msg::NEWTABLE, sys::NLM_F_CREATE), |w| {
            w.string(sys::table::NAME, &table.name);
            w.u32(sys::table::FLAGS, 0);
            Ok(())
        })
    }

    /// Deletes a table and all that is in it. One that does not exist is an error.
    pub fn delete_table(&mut self, table: &Table) -> &mut Self {
        self.one(("delete", "table", ""), (table, msg::DELTABLE, 0), |w| {
            w.string(sys::table::NAME, &table.name);
            Ok(())
        })
    }

    /// Sees to it that a table does not exist, whether it did or not.
    pub fn destroy_table(&mut self, table: &Table) -> &mut Self {
        self.add_table(table).delete_table(table)
    }

    /// Sees to it that a table exists and is empty, whether it existed or not.
    pub fn replace_table(&mut self, table: &Table) -> &mut Self {
        self.destroy_table(table).add_table(table)
    }

    /// Deletes all rules of a table; its chains and sets stay.
    pub fn flush_table(&mut self, table: &Table) -> &mut Self {
        self.one(("flush", "table", ""), (table, msg::DELRULE, 0), |w| {
            w.string(sys::rule::TABLE, &table.name);
            Ok(())
        })
    }

    // Chains.

    /// Adds a chain. One that exists stays, and takes the policy given; another type, hook or priority is an error.
    pub fn add_chain(&mut self, table: &Table, chain: &Chain) -> &mut Self {
        self.one(("add", "chain", &chain.name), (table, msg::NEWCHAIN, sys::NLM_F_CREATE), |w| {
            w.string(sys::chain::TABLE, &table.name);
            w.string(sys::chain::NAME, checked("chain", &chain.name)?);
            if let Some(base) = chain.base {
                w.nested(sys::chain::HOOK, |w| {
                    w.u32(sys::chain::HOOK_NUMBER, base.hook.number());
                    w.bytes(sys::chain::HOOK_PRIORITY, &base.priority.to_be_bytes());
                });
                w.u32(sys::chain::POLICY, base.policy.number());
                w.string(sys::chain::TYPE, base.chain_type.name());
            }
            Ok(())
        })
    }

    /// Deletes a chain, which must have no rules and no jumps to it.
    pub fn delete_chain(&mut self, table: &Table, chain: &str) -> &mut Self {
        self.one(("delete", "chain", chain), (table, msg::DELCHAIN, 0), |w| {
            w.string(sys::chain::TABLE, &table.name);
            w.string(sys::chain::NAME, checked("chain", chain)?);
            Ok(())
        })
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: &Table, chain: &str) -> &mut Self {
        self.one(("flush", "chain", chain), (table, msg::DELRULE, 0), |w| {
            w.string(sys::rule::TABLE, &table.name);
            w.string(sys::rule::CHAIN, checked("chain", chain)?);
            Ok(())
        })
    }

    // Rules.

    /// Adds a rule at the chain's end.
    pub fn add_rule(&mut self, table: &Table, chain: &str, rule: &Rule) -> &mut Self {
        self.put_rule("add", table, chain, rule)
    }

    /// Adds a rule at the chain's beginning.
    pub fn insert_rule(&mut self, table: &Table, chain: &str, rule: &Rule) -> &mut Self {
        self.put_rule("insert", table, chain, rule)
    }

    fn put_rule(&mut self, verb: &str, table: &Table, chain: &str, rule: &Rule) -> &mut Self {
        let comment = rule.comment.as_ref().map(|c| format!(" comment {c:?}")).unwrap_or_default();
        let name = format!("{verb} rule {table} {chain}{comment}");
        let append = if verb == "add" { sys::NLM_F_APPEND } else { 0 };
        let messages = self.rule_messages(table, chain, rule, sys::NLM_F_CREATE | append);
        self.add(name, messages)
    }

    fn rule_messages(&mut self, table: &Table, chain: &str, rule: &Rule, flags: u16) -> Result<Vec<Message>, Invalid> {
        checked("table", &table.name)?;
        checked("chain", chain)?;
        let mut rendered = rule.render(table.family)?;
        let mut messages = Vec::new();
        let first_id = self.next_set_id + 1;
        for (set, elements) in &rendered.sets {
            self.next_set_id += 1;
            messages.extend(anonymous_set(table, set, elements, self.next_set_id)?);
        }
        for expression in &mut rendered.expressions {
            if let crate::Expression::Lookup { set_id: Some(id), .. } = expression {
                *id += first_id;
            }
        }
        let attributes = attributes(|w| {
            w.string(sys::rule::TABLE, &table.name);
            w.string(sys::rule::CHAIN, chain);
            w.nested(sys::rule::EXPRESSIONS, |w| rendered.expressions.iter().for_each(|e| e.write(w)));
            if let Some(comment) = &rule.comment {
                let length = u8::try_from(comment.len() + 1).map_err(|_| Invalid::TooLong("the comment"))?;
                let mut data = vec![sys::rule::USERDATA_COMMENT, length];
                data.extend_from_slice(comment.as_bytes());
                data.push(0);
                w.bytes(sys::rule::USERDATA, &data);
            }
            Ok(())
        })?;
        messages.push(Message { kind: msg::NEWRULE, flags, family: table.family.number(), attributes });
        Ok(messages)
    }

    /// Deletes the rule of this handle (see [`Socket::rules`]).
    pub fn delete_rule(&mut self, table: &Table, chain: &str, handle: u64) -> &mut Self {
        self.one(("delete", "rule of chain", chain), (table, msg::DELRULE, 0), |w| {
            w.string(sys::rule::TABLE, &table.name);
            w.string(sys::rule::CHAIN, checked("chain", chain)?);
            w.u64(sys::rule::HANDLE, handle);
            Ok(())
        })
    }

    // Sets and maps.

    /// Adds a set or map; one that exists with the same type stays as it is, elements included.
    pub fn add_set(&mut self, table: &Table, set: &Set) -> &mut Self {
        self.next_set_id += 1;
        let id = self.next_set_id;
        self.one(("add", "set", &set.name), (table, msg::NEWSET, sys::NLM_F_CREATE), |w| {
            w.string(sys::set::TABLE, &table.name);
            w.string(sys::set::NAME, checked("set", &set.name)?);
            set.write(w, 0, id, None)
        })
    }

    /// Deletes a set or map, which no rule may use.
    pub fn delete_set(&mut self, table: &Table, set: &str) -> &mut Self {
        self.one(("delete", "set", set), (table, msg::DELSET, 0), |w| {
            w.string(sys::set::TABLE, &table.name);
            w.string(sys::set::NAME, checked("set", set)?);
            Ok(())
        })
    }

    /// Deletes all elements of a set or map.
    pub fn flush_set(&mut self, table: &Table, set: &str) -> &mut Self {
        self.one(("flush", "set", set), (table, msg::DELSETELEM, 0), |w| {
            w.string(sys::element::LIST_TABLE, &table.name);
            w.string(sys::element::LIST_SET, checked("set", set)?);
            Ok(())
        })
    }

    /// Adds elements. One that is there already stays; one whose interval overlaps another's, or a map's key with other data,
    /// is an error.
    pub fn add_elements(
        &mut self,
        table: &Table,
        set: &Set,
        elements: impl IntoIterator<Item = impl Into<Element>>,
    ) -> &mut Self {
        self.change_elements("add", table, set, elements.into_iter().map(Into::into).collect())
    }

    /// Deletes elements, of a map by their keys. One that is not there is an error.
    pub fn delete_elements(
        &mut self,
        table: &Table,
        set: &Set,
        elements: impl IntoIterator<Item = impl Into<Element>>,
    ) -> &mut Self {
        let keys_alone = elements.into_iter().map(|e| Element { data: None, ..e.into() }).collect();
        self.change_elements("delete", table, &Set { data: None, ..set.clone() }, keys_alone)
    }

    fn change_elements(&mut self, verb: &str, table: &Table, set: &Set, elements: Vec<Element>) -> &mut Self {
        if elements.is_empty() {
            return self;
        }
        let name = format!("{verb} {} elements of set {table} {}", elements.len(), set.name);
        let (kind, flags) = if verb == "add" { (msg::NEWSETELEM, sys::NLM_F_CREATE) } else { (msg::DELSETELEM, 0) };
        let messages = checked("set", &set.name).and_then(|_| element_messages(table, set, &elements, (kind, flags, None)));
        self.add(name, messages)
    }

    // Named counters.

    /// Adds a named counter; one that exists keeps counting.
    pub fn add_counter(&mut self, table: &Table, name: &str) -> &mut Self {
        self.one(("add", "counter", name), (table, msg::NEWOBJ, sys::NLM_F_CREATE), |w| {
            w.string(sys::object::TABLE, &table.name);
            w.string(sys::object::NAME, checked("counter", name)?);
            w.u32(sys::object::TYPE, sys::object::COUNTER);
            w.nested(sys::object::DATA, |w| {
                w.u64(sys::object::COUNTER_BYTES, 0);
                w.u64(sys::object::COUNTER_PACKETS, 0);
            });
            Ok(())
        })
    }

    /// Deletes a named counter, which no rule may use.
    pub fn delete_counter(&mut self, table: &Table, name: &str) -> &mut Self {
        self.one(("delete", "counter", name), (table, msg::DELOBJ, 0), |w| {
            w.string(sys::object::TABLE, &table.name);
            w.string(sys::object::NAME, checked("counter", name)?);
            w.u32(sys::object::TYPE, sys::object::COUNTER);
            Ok(())
        })
    }

    // The transaction.

    /// Hands the transaction to the kernel. A batch of no operations does nothing. The batch stays as it is, and can be
    /// committed again.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an object that cannot be: nothing was sent. [`Error::Rejected`] with the kernel's reasons, each
    /// naming its operation: nothing was changed. Else the socket's own errors.
    pub fn commit(&self, socket: &mut Socket) -> Result<(), Error> {
        if let Some((operation, cause)) = &self.invalid {
            return Err(Error::Invalid { operation: operation.clone(), cause: cause.clone() });
        }
        if self.operations.is_empty() {
            return Ok(());
        }
        let sent = self.assemble(socket)?;
        let answers = socket.transact(&sent.bytes)?;
        let mut acknowledged = false;
        let mut rejections = Vec::new();
        for answer in answers {
            match answer.result {
                Ok(()) => acknowledged |= answer.sequence == sent.last,
                Err((errno, message)) => {
                    let index = sent.operations.iter().find(|(sequence, _)| *sequence == answer.sequence).map(|(_, n)| *n);
                    let operation = index.and_then(|n| self.operations.get(n)).map_or("the transaction", |o| &o.name);
                    rejections.push(Rejection { index, operation: operation.to_owned(), errno, message });
                }
            }
        }
        match (rejections.is_empty(), acknowledged) {
            (false, _) => Err(Error::Rejected(rejections)),
            (true, true) => Ok(()),
            (true, false) => Err(Error::NoAnswer),
        }
    }

    fn assemble(&self, socket: &mut Socket) -> Result<Sent, Error> {
        let mut w = Writer::new();
        let mut sent = Sent { bytes: Vec::new(), operations: Vec::new(), last: 0 };
        let limit =
            |kind, sequence| MessageHeader { kind, flags: sys::NLM_F_REQUEST, sequence, family: 0, resource: sys::SUBSYSTEM };
        w.message(limit(sys::BATCH_BEGIN, socket.next_sequence()), |_| {});
        let last_message = self.operations.iter().map(|o| o.messages.len()).sum::<usize>().saturating_sub(1);
        let all = self.operations.iter().enumerate().flat_map(|(n, o)| o.messages.iter().map(move |m| (n, m)));
        for (position, (operation, message)) in all.enumerate() {
            // Refusals come unasked for every message; a success is worth an answer for the last one only.
            let acknowledge = if position == last_message { sys::NLM_F_ACK } else { 0 };
            let sequence = socket.next_sequence();
            let header = MessageHeader {
                kind: sys::message_type(message.kind),
                flags: sys::NLM_F_REQUEST | acknowledge | message.flags,
                sequence,
                family: message.family,
                resource: 0,
            };
            w.message(header, |w| w.raw(&message.attributes));
            sent.operations.push((sequence, operation));
            sent.last = sequence;
        }
        w.message(limit(sys::BATCH_END, socket.next_sequence()), |_| {});
        let too_long = || Error::Invalid { operation: "commit".to_owned(), cause: Invalid::TooLong("the transaction") };
        sent.bytes = w.finish().ok_or_else(too_long)?;
        Ok(sent)
    }
}

/// A batch as it is sent.
struct Sent {
    bytes: Vec<u8>,
    /// Which message (by sequence number) belongs to which operation.
    operations: Vec<(u32, usize)>,
    /// The sequence number of the message that is acknowledged on success.
    last: u32,
}

fn anonymous_set(table: &Table, set: &Set, elements: &[Element], id: u32) -> Result<Vec<Message>, Invalid> {
    let attributes = attributes(|w| {
        w.string(sys::set::TABLE, &table.name);
        w.string(sys::set::NAME, &set.name);
        let size = (!set.interval).then(|| to_u32(elements.len()));
        set.write(w, sys::set::F_ANONYMOUS | sys::set::F_CONSTANT, id, size)
    })?;
    let family = table.family.number();
    let mut messages = vec![Message { kind: msg::NEWSET, flags: sys::NLM_F_CREATE, family, attributes }];
    messages.extend(element_messages(table, set, elements, (msg::NEWSETELEM, sys::NLM_F_CREATE, Some(id)))?);
    Ok(messages)
}

fn element_messages(
    table: &Table,
    set: &Set,
    elements: &[Element],
    (kind, flags, id): (u16, u16, Option<u32>),
) -> Result<Vec<Message>, Invalid> {
    let messages = write_elements(set, elements)?.into_iter().map(|list| {
        let attributes = attributes(|w| {
            w.string(sys::element::LIST_TABLE, &table.name);
            w.string(sys::element::LIST_SET, &set.name);
            if let Some(id) = id {
                w.u32(sys::element::LIST_SET_ID, id);
            }
            w.nested(sys::element::LIST_ELEMENTS, |w| w.raw(&list));
            Ok(())
        })?;
        Ok(Message { kind, flags, family: table.family.number(), attributes })
    });
    messages.collect()
}
