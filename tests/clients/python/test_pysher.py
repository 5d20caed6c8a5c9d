"""The pysher client: protocol 6, an empty string as data of its pings, raw text as event data."""

import re

import pytest

from listener import DEADLINE


def test_connects(listen):
    listener = listen().connected()
    assert re.fullmatch(r"\d+\.\d+", listener.socket_id)
    assert listener.client.connection.state == "connected"


def test_an_unknown_key_ends_the_connection_for_good(listen):
    listener = listen(key="no-such-key")
    listener.client.connection.join(DEADLINE)
    assert not listener.client.connection.is_alive()
    assert listener.client.connection.state == "disconnected"
    assert listener.socket_id == ""


def test_public_channel(api, listen):
    listener = listen(["pysher-open"], ["hello"]).subscribed()
    api.trigger("pysher-open", "hello", {"to": "日本 🎺"})
    assert listener.next_json("hello") == {"to": "日本 🎺"}


def test_unsubscribe(api, listen):
    listener = listen(["pysher-leaving"], ["hello"]).subscribed()
    listener.client.unsubscribe("pysher-leaving")
    listener.settle()
    assert api.channel_info("pysher-leaving") == {"occupied": False}
    api.trigger("pysher-leaving", "hello", "nobody")
    listener.heard_nothing()


def test_leaving_a_channel_one_is_not_in_is_answered(listen):
    listener = listen().connected()
    listener.client.connection.send_event("pusher:unsubscribe", {"channel": "never-joined"})
    error = listener.errors.get(timeout=DEADLINE)
    assert error["code"] is None
    assert "No current subscription" in error["message"]


def test_private_channel_signed_locally(api, listen):
    listener = listen(["private-pysher"], ["hello"]).subscribed()
    api.trigger("private-pysher", "hello", "you")
    assert listener.next("hello") == "you"


def test_private_channel_signed_by_an_endpoint(api, listen, auth_endpoint):
    listener = listen(["private-pysher"], ["hello"], secret="", auth_endpoint=auth_endpoint).subscribed()
    api.trigger("private-pysher", "hello", "you")
    assert listener.next("hello") == "you"


def test_presence_channel_signed_by_an_endpoint(api, listen, auth_endpoint):
    listen(["presence-remote"], secret="", auth_endpoint=auth_endpoint, user_data={"user_id": "remote"}).subscribed()
    assert api.users_info("presence-remote") == {"users": [{"id": "remote"}]}


@pytest.mark.parametrize("channel", ["private-pysher", "presence-pysher"])
def test_a_wrong_secret_is_refused(api, listen, channel):
    listener = listen([channel], ["hello"], secret="guessed", user_data={"user_id": "eve"}).connected()
    error = listener.errors.get(timeout=DEADLINE)
    assert error["code"] is None
    assert "Invalid signature" in error["message"]
    refusal = listener.next_json("pusher:subscription_error")
    assert refusal["type"] == "AuthError"
    api.trigger(channel, "hello", "nobody")
    listener.heard_nothing()


def test_presence_channel(listen, api):
    events = ["pusher_internal:member_added", "pusher_internal:member_removed"]
    ada = listen(["presence-pysher"], events, user_data={"user_id": "ada", "user_info": {"name": "Ada"}}).subscribed()
    bob = listen(["presence-pysher"], events, user_data={"user_id": "bob"}).connected()
    presence = bob.next_json("pusher_internal:subscription_succeeded")["presence"]
    assert presence["count"] == 2
    assert sorted(presence["ids"]) == ["ada", "bob"]
    assert presence["hash"]["ada"] == {"name": "Ada"}
    assert "bob" in presence["hash"]
    assert ada.next_json("pusher_internal:member_added")["user_id"] == "bob"
    bob.client.unsubscribe("presence-pysher")
    assert ada.next_json("pusher_internal:member_removed") == {"user_id": "bob"}
    assert api.users_info("presence-pysher") == {"users": [{"id": "ada"}]}


def test_presence_without_a_user_is_refused(listen):
    listener = listen(["presence-pysher"], user_data={"user_info": {}}).connected()
    assert listener.errors.get(timeout=DEADLINE)["code"] is None
    listener.settle()


@pytest.mark.parametrize("channel", ["private-chat", "presence-chat"])
def test_client_events(listen, channel):
    ada = listen([channel], ["client-said"], user_data={"user_id": "ada"}).subscribed()
    bob = listen([channel], ["client-said"], user_data={"user_id": "bob"}).subscribed()
    ada.channels[channel].trigger("client-said", {"text": "hello 🎺"})
    assert bob.next_json("client-said") == {"text": "hello 🎺"}
    bob.channels[channel].trigger("client-said", "hi")
    assert ada.next("client-said") == "hi"
    ada.heard_nothing()
    bob.heard_nothing()


def test_a_client_event_on_a_public_channel_is_refused(listen):
    listener = listen(["chat"]).subscribed()
    listener.client.connection.send_event("client-said", {"a": 1}, channel_name="chat")
    error = listener.errors.get(timeout=DEADLINE)
    assert error["code"] is None
    assert "only supported on private and presence channels" in error["message"]
