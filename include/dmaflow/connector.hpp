// The Kernel Connector: messages from and to the kernel (include/uapi/linux/connector.h).
//
// A Client is a socket with callbacks by cb_id, sending, requests that are matched with their replies, and answers to
// the kernel's questions. It has no thread: wait on poll_fd(), then call dispatch(). For process events use
// process_events.hpp, which is faster and knows more about them.
//
// "Sent" is not "accepted": the kernel takes any well-formed datagram and silently drops messages that have no
// receiver, have the wrong length or are unknown. Only a reply proves anything, and a timeout is the normal error.
// docs/connector.md describes the pitfalls of each protocol.
//
// Threads: one at a time for each Client together with its tokens. Two Clients are independent.
#pragma once

#include <dmaflow/cancel.hpp>
#include <dmaflow/connector_message.hpp>
#include <dmaflow/connector_request.hpp>
#include <dmaflow/connector_socket.hpp>
#include <dmaflow/deadline.hpp>
#include <dmaflow/device.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/function.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace dmaflow::connector {

namespace detail {
class Core;
}

/// Called with a message, from dispatch() and ask(). It may subscribe, unsubscribe itself and others, destroy its own
/// token, send, request, and even destroy the Client; it may not call dispatch() or ask() of the same Client (EDEADLK)
/// nor throw. Never copied: it may own a Frame or an Fd.
using MessageHandler = Function<void(const Message&)>;
/// Called with the outcome of a request. The same rules.
using ReplyHandler = Function<void(const Reply&)>;
/// Called when messages were lost, with their number, between the messages before and after the loss.
using LossHandler = Function<void(std::uint64_t lost)>;

/// A message to be sent. A view: the caller keeps the payload.
struct Outgoing {
  CbId id{};
  std::span<const std::byte> payload{};  ///< at most max_payload bytes
  std::uint16_t flags = 0;
  Numbers numbers{};  ///< seq and ack; a request has its own
};

/// The token of a callback or a request, which is called while the token exists. Move-only; may outlive the Client.
class [[nodiscard("destroying the token ends the subscription or the request")]] Subscription {
 public:
  Subscription() = default;
  Subscription(Subscription&& other) noexcept : core_(std::move(other.core_)), key_(std::exchange(other.key_, 0)) {}
  Subscription& operator=(Subscription&& other) noexcept;
  Subscription(const Subscription&) = delete;
  Subscription& operator=(const Subscription&) = delete;
  ~Subscription() { end(); }

  /// Ends it now; nothing is called any more. Ending twice is allowed.
  void end() noexcept;
  /// Whether it would still be called: false once ended, moved away, the request over or the Client gone.
  [[nodiscard]] bool is_active() const noexcept;

 private:
  friend class detail::Core;
  friend class Client;
  Subscription(std::weak_ptr<detail::Core> core, std::uint64_t key) noexcept : core_(std::move(core)), key_(key) {}
  std::weak_ptr<detail::Core> core_;
  std::uint64_t key_ = 0;
};

/// Answers a question from the kernel, at once or later: copies may be kept. Each answer is one send.
class Answerer {
 public:
  /// Errors: those of Client::send(); ENODEV (the Client is gone).
  Result<void> answer(std::span<const std::byte> payload) const;
  /// Refuses. @p error: an errno above 0. Errors: EOPNOTSUPP (the protocol has no refusals), and as answer().
  Result<void> refuse(int error) const;

 private:
  friend class Client;
  Answerer(std::weak_ptr<detail::Core> core, const Message& question, Numbers numbers,
           std::optional<Numbers> (*refusal)(const Message&, int)) noexcept
      : core_(std::move(core)), question_(question), numbers_(numbers), refusal_(refusal) {
    question_.payload = {};
  }
  std::weak_ptr<detail::Core> core_;
  Message question_{};  // without its payload
  Numbers numbers_{};
  std::optional<Numbers> (*refusal_)(const Message&, int) = nullptr;
};

/// Counted since the Client was opened.
struct Counters {
  std::uint64_t datagrams = 0;    ///< received
  std::uint64_t messages = 0;     ///< in them, from accepted senders
  std::uint64_t unhandled = 0;    ///< of these, taken by no request and no subscription
  std::uint64_t undecodable = 0;  ///< of these, with a payload that its subscriber's type does not accept
  std::uint64_t foreign = 0;      ///< datagrams of other programs, rejected
  std::uint64_t truncated = 0;    ///< datagrams longer than ClientOptions::datagram_bytes
  std::uint64_t malformed = 0;    ///< datagrams with impossible lengths, or empty
  std::uint64_t lost = 0;         ///< messages that the kernel dropped, by its own count
  std::uint64_t receive_calls = 0;
};

struct ClientOptions {
  std::uint32_t receive_buffer = 1U << 20U;  ///< bytes, as Socket::set_receive_buffer(); 0 leaves it as it is
  std::size_t datagram_bytes = 65'600;       ///< 36 to 1 MiB; the default holds all that a kernel can send
  std::size_t batch = 32;                    ///< datagrams read with one system call, 1 to 1024
  /// Also accepts messages from other programs (any with CAP_NET_ADMIN can send them). Message::origin shows the
  /// sender.
  bool accept_programs = false;
};

/// A socket of the connector, its callbacks and its requests. Cannot be copied or moved; see the top of this file.
class Client final : public Pollable {
 public:
  /// Errors: those of Socket::open(); EINVAL (an option is out of range).
  [[nodiscard]] static Result<std::unique_ptr<Client>> open(const ClientOptions& options = {});
  /// With a socket opened elsewhere. On an error the caller keeps it. Errors: those of Socket::adopt(), and as open().
  [[nodiscard]] static Result<std::unique_ptr<Client>> adopt(Fd& fd, const ClientOptions& options = {});
  ~Client() override;

  /// The socket, to join and leave groups and to set filters. Owned by this object.
  [[nodiscard]] Socket& socket() noexcept;
  /// The result of ClientOptions::receive_buffer.
  [[nodiscard]] ReceiveBuffer receive_buffer() const noexcept;
  [[nodiscard]] Counters counters() const noexcept;

  // --- Messages received ---------------------------------------------------------------------------------------------

  /// Calls @p handler with each message of @p id. Several may subscribe to one id; all are called, in the order of
  /// subscription. A subscription made in a callback begins with the next message. Multicast groups must be joined
  /// separately.
  [[nodiscard]] Subscription subscribe(CbId id, MessageHandler handler);
  /// The same, with the payload as a T. Messages that T does not accept are counted, and go to the default handler.
  template <Payload T, std::invocable<const T&, const Message&> F>
  [[nodiscard]] Subscription subscribe(F handler) {
    return subscribe_typed(PayloadTraits<T>::id, [call = std::move(handler)](const Message& message) mutable {
      const auto value = PayloadTraits<T>::parse(message.payload);
      if (value) call(*value, message);
      return value.has_value();
    });
  }
  /// For messages that no other handler took. An empty handler removes it.
  void set_default_handler(MessageHandler handler);
  /// For losses. An empty handler removes it.
  void set_loss_handler(LossHandler handler);

  // --- Messages sent -------------------------------------------------------------------------------------------------

  /// To the kernel. One system call; allocates nothing. Success does not mean accepted: see the top of this file.
  /// Errors: EMSGSIZE (payload over max_payload), ECONNREFUSED (a network namespace other than the first: there is no
  /// connector), EAGAIN and ENOBUFS (no memory), EPERM.
  [[nodiscard]] Result<void> send(const Outgoing& message);
  /// Many messages, with one system call for each 128. Returns how many were sent. All are checked before the first is
  /// sent. Errors: as send(), if not even the first was sent.
  [[nodiscard]] Result<std::size_t> send(std::span<const Outgoing> messages);

  /// Sends with its own seq and a random ack, and calls @p handler with the outcome. Any number may be in flight.
  /// Replies to a request do not go to subscriptions. Destroying the token ends the request, and nothing is called.
  /// Errors: those of send().
  template <Matcher M>
  [[nodiscard]] Result<Subscription> request(const Outgoing& message, M matcher, Deadline deadline,
                                             ReplyHandler handler) {
    return request_with(message, MatchFunction(std::move(matcher)), deadline, std::move(handler));
  }

  /// A message with its payload, for keeping.
  struct Kept {
    Message message;  ///< its payload is `bytes`
    std::vector<std::byte> bytes;
  };
  /// Like request(), but waits for the last reply and dispatches other messages meanwhile. Returns all parts of the
  /// reply.
  /// Errors: those of send() and dispatch(); ETIMEDOUT (the detail says how many messages were lost meanwhile, which
  /// may have been the reply); ECANCELED; EDEADLK (called from a callback).
  template <Matcher M>
  [[nodiscard]] Result<std::vector<Kept>> ask(const Outgoing& message, M matcher, Deadline deadline,
                                              const Cancel* cancel = nullptr) {
    return ask_with(message, MatchFunction(std::move(matcher)), deadline, cancel);
  }

  /// The other role: the kernel asks, @p handler answers, now or later. Groups must be joined separately.
  template <AnswerRule R, std::invocable<const Message&, const Answerer&> F>
  [[nodiscard]] Subscription respond(CbId id, F handler) {
    return subscribe(id, [core = std::weak_ptr(core_), call = std::move(handler)](const Message& question) mutable {
      call(question, Answerer(core, question, R::answer(question), &R::refusal));
    });
  }

  // --- The loop ------------------------------------------------------------------------------------------------------

  /// An epoll descriptor: readable if messages or losses wait, or a request is due. Owned by this object.
  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  /// Reads the waiting messages, at most 64 batches, and calls the handlers; ends requests that are due.
  /// Errors: EDEADLK (called from a callback), those of the socket.
  [[nodiscard]] Result<void> dispatch(short revents) override;

 private:
  using MatchFunction = Function<Match(const Sent&, const Message&)>;
  using TypedHandler = Function<bool(const Message&)>;

  explicit Client(std::shared_ptr<detail::Core> core) noexcept;
  static Result<std::unique_ptr<Client>> create(Socket socket, const ClientOptions& options);
  Subscription subscribe_typed(CbId id, TypedHandler handler);
  Result<Subscription> request_with(const Outgoing& message, MatchFunction matcher, Deadline deadline,
                                    ReplyHandler handler);
  Result<std::vector<Kept>> ask_with(const Outgoing& message, MatchFunction matcher, Deadline deadline,
                                     const Cancel* cancel);

  std::shared_ptr<detail::Core> core_;
};

}  // namespace dmaflow::connector
