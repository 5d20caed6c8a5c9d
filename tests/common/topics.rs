//! Channels and what happens in them, as engines see them.

use fanfare::cluster::Topic;
use fanfare::model::channel::ChannelName;
use fanfare::model::event::{Body, Event, EventId, Origin};
use fanfare::model::quoted::Quoted;

pub fn channel(name: &str) -> Topic {
    Topic::Channel("app".into(), ChannelName::parse(name, 200).expect("a name"))
}

/// The text of a message.
pub fn data(event: &Event) -> String {
    let Body::Message { data, .. } = &event.body else { panic!("{event:?}") };
    serde_json::from_slice(data.as_bytes()).expect("JSON")
}

/// A message of that text.
pub fn event(topic: &Topic, text: &str) -> Event {
    let Topic::Channel(_, channel) = topic else { panic!("{topic:?}") };
    Event {
        id: EventId { broker: 1, number: 1 },
        timestamp_ms: 1,
        channel: channel.clone(),
        origin: Origin::Api,
        except: None,
        body: Body::Message { name: Quoted::from_text("e"), data: Quoted::from_text(text), user_id: None },
    }
}
