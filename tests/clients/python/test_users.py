"""Signed-in users: `authenticate_user`, `send_to_user`, `terminate_user_connections`."""

import json

import pytest
from pusher.errors import PusherBadAuth, PusherBadRequest, PusherBadStatus, PusherForbidden

from fanfare import DISABLED
from listener import DEADLINE

ADA = {"id": "ada", "user_info": {"name": "Ada Müller 🎺"}}
# All the characters that an id may have, and the longest that a channel can be named by.
ODD_IDS = ["aZ09_-=@,.;", ";;=", "@", "-", "0", ".a.", "a..b", "x" * 184]


def subscribe(listener, user_id):
    data = {"channel": f"#server-to-user-{user_id}", "auth": ""}
    listener.client.connection.send_event("pusher:subscribe", data)


@pytest.fixture
def user(api, listen):
    """Makes pysher clients that are signed in and have subscribed to their user's own channel."""

    def make(user_id, events=("hello", "end")):
        listener = listen().connected()
        listener.signed_in(api.authenticate_user(listener.socket_id, {"id": user_id}))
        listener.expect(f"#server-to-user-{user_id}", events)
        subscribe(listener, user_id)
        assert listener.next_json("pusher_internal:subscription_succeeded") == {}
        return listener

    return make


def test_authenticate_user(api, listen):
    listener = listen().connected()
    answer = api.authenticate_user(listener.socket_id, ADA)
    assert listener.signed_in(answer) == answer["user_data"]
    assert json.loads(answer["user_data"]) == ADA
    listener.settle()
    assert listener.errors.empty()


def test_authenticate_user_twice_is_no_error(api, listen):
    listener = listen().connected()
    for info in ({}, {"name": "Ada"}):
        answer = api.authenticate_user(listener.socket_id, {"id": "ada", "user_info": info})
        assert listener.signed_in(answer) == answer["user_data"]
    listener.settle()
    assert listener.errors.empty()
    assert listener.sign_ins.empty()


@pytest.mark.parametrize(
    "user_data", [None, {}, {"user_info": {}}, {"id": ""}, {"id": 5}, {"id": "a b"}, {"id": "x" * 201}]
)
def test_this_package_itself_refuses_to_sign_for_nobody(api, user_data):
    with pytest.raises((ValueError, TypeError)):
        api.authenticate_user("1.1", user_data)


def test_a_sign_in_that_is_not_signed_for_is_refused(api, sdk, listen):
    listener = listen().connected()
    good = api.authenticate_user(listener.socket_id, ADA)
    for answer, text in [
        (sdk(secret="guessed").authenticate_user(listener.socket_id, ADA), "Invalid signature"),
        (sdk(key="nobody").authenticate_user(listener.socket_id, ADA), "key"),
        (api.authenticate_user("1.1", ADA), "Invalid signature"),
        ({**good, "user_data": json.dumps({"id": "eve"})}, "Invalid signature"),
        ({"auth": good["auth"]}, "user_data"),
        ({"user_data": good["user_data"]}, "Auth"),
        # A name that is too long for a channel, which this package lets through.
        (api.authenticate_user(listener.socket_id, {"id": "x" * 185}), "184"),
    ]:
        listener.sign_in(answer)
        error = listener.errors.get(timeout=DEADLINE)
        assert error["code"] is None
        assert text in error["message"]
    assert listener.sign_ins.empty()
    # After all that the good one is as good as before.
    assert listener.signed_in(good) == good["user_data"]


def test_send_to_user_reaches_each_connection_once_and_nobody_else(api, user):
    one, two, bob = user("ada"), user("ada"), user("bob")
    assert api.send_to_user("ada", "hello", {"text": "für 🎺"}) == {}
    api.send_to_user("ada", "end", "")
    api.send_to_user("bob", "end", "")
    for listener in (one, two):
        assert listener.next_json("hello") == {"text": "für 🎺"}
        assert listener.next("end") == ""
    bob.next("end")
    for listener in (one, two, bob):
        listener.heard_nothing()


def test_a_signed_in_client_hears_of_its_user_without_subscribing(api, listen):
    listener = listen().connected()
    listener.signed_in(api.authenticate_user(listener.socket_id, ADA))
    listener.expect("#server-to-user-ada", ["hello"])
    api.send_to_user("ada", "hello", "you")
    assert listener.next("hello") == "you"


def test_the_channel_of_another_user_is_refused(api, listen):
    eve, nobody = listen().connected(), listen().connected()
    eve.signed_in(api.authenticate_user(eve.socket_id, {"id": "eve"}))
    for listener in (eve, nobody):
        listener.expect("#server-to-user-ada", ["hello"])
        subscribe(listener, "ada")
        assert listener.errors.get(timeout=DEADLINE)["code"] is None
        assert listener.next_json("pusher:subscription_error")["status"] in (401, 403)
        api.send_to_user("ada", "hello", "nobody")
        listener.heard_nothing()


def test_send_to_user_who_is_nowhere(api):
    assert api.send_to_user("nobody-ever", "hello", "you") == {}


def test_what_cannot_be_sent_to_a_user_is_refused(api, sdk):
    for user_id in ("", "a b", "a/b", "zoë", "x" * 185):
        with pytest.raises(ValueError):
            api.send_to_user(user_id, "hello", "you")
    with pytest.raises(PusherBadRequest):
        api.send_to_user("ada", "pusher:error", "you")
    with pytest.raises(PusherBadStatus, match="413"):
        api.send_to_user("ada", "hello", "x" * 10_241)
    with pytest.raises(PusherBadAuth):
        sdk(secret="guessed").send_to_user("ada", "hello", "you")


def test_terminate_ends_all_connections_of_the_user_and_no_others(api, user, listen):
    one, two, bob = user("ada"), user("ada"), user("bob")
    # A member who goes by that name, but is not signed in.
    member = listen(["presence-users"], ["end"], user_data={"user_id": "ada"}).subscribed()
    assert api.terminate_user_connections("ada") == {}
    one.ended()
    two.ended()
    api.send_to_user("bob", "end", "")
    bob.next("end")
    api.trigger("presence-users", "end", "")
    member.next("end")

    # The user may come back.
    again = user("ada")
    api.send_to_user("ada", "hello", "again")
    assert again.next("hello") == "again"


@pytest.mark.parametrize("user_id", ODD_IDS, ids=lambda user_id: user_id[:16])
def test_ids_with_every_allowed_character(api, user, user_id):
    listener = user(user_id)
    api.send_to_user(user_id, "hello", "you")
    assert listener.next("hello") == "you"
    assert api.terminate_user_connections(user_id) == {}
    listener.ended()


@pytest.mark.parametrize("user_id", ["nobody-ever", "ad", "Ada", "ada,bob", "ada;", "ada=", "x" * 200])
def test_terminating_somebody_who_is_nowhere(api, user, user_id):
    ada = user("ada")
    assert api.terminate_user_connections(user_id) == {}
    api.send_to_user("ada", "hello", "you")
    assert ada.next("hello") == "you"


@pytest.mark.parametrize("user_id", ["", "a b", "a/b", "a%2Fb", "../events", "zoë", "x" * 201])
def test_this_package_itself_refuses_to_terminate_what_is_no_id(api, user_id):
    with pytest.raises(ValueError):
        api.terminate_user_connections(user_id)


def test_a_termination_that_is_not_signed_is_refused(sdk, user):
    ada = user("ada")
    with pytest.raises(PusherBadAuth, match="Invalid signature"):
        sdk(secret="guessed").terminate_user_connections("ada")
    with pytest.raises(PusherBadAuth):
        sdk(key="nobody").terminate_user_connections("ada")
    with pytest.raises(PusherForbidden):
        sdk(**DISABLED).terminate_user_connections("ada")
    ada.heard_nothing()
    assert ada.client.connection.state == "connected"


def test_the_app_of_a_termination_is_found_by_its_key(sdk, user):
    # The path that this package asks for names none.
    ada = user("ada")
    assert sdk(app_id="999").terminate_user_connections("ada") == {}
    ada.ended()
