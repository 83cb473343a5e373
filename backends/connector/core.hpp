// The implementation of a Client; tokens and answers hold weak references to it.
#pragma once

#include "callbacks.hpp"
#include "receiver.hpp"

#include <dmaflow/connector.hpp>

#include <optional>

namespace dmaflow::connector::detail {

using TypedHandler = Function<bool(const Message&)>;
using MatchFunction = Function<Match(const Sent&, const Message&)>;

struct Subscriber {
  CbId id{};
  TypedHandler handler;  ///< returns whether it took the message
};

struct Pending {
  Sent sent{};
  MatchFunction matcher;
  Deadline deadline = Deadline::immediate();
  ReplyHandler handler;
  std::uint64_t lost = 0;
};

class Core : public std::enable_shared_from_this<Core> {
 public:
  Core(Socket opened, const ClientOptions& chosen);

  /// Creates the descriptors to wait on, and chooses the first numbers.
  Result<void> prepare();
  Result<void> dispatch();
  /// The Client is gone; a callback of it may still be running.
  void close() noexcept;
  Result<std::size_t> send(std::span<const Outgoing> messages) const;

  Subscription subscribe(CbId id, TypedHandler handler);
  Result<Subscription> request(const Outgoing& message, MatchFunction matcher, Deadline deadline, ReplyHandler handler);
  void end(std::uint64_t key) noexcept;
  [[nodiscard]] bool is_active(std::uint64_t key) const noexcept;

  Socket socket;
  ClientOptions options;
  ReceiveBuffer buffer;
  Counters counters;
  Replaceable<MessageHandler> default_handler;
  Replaceable<LossHandler> loss_handler;
  Fd epoll;
  bool is_dispatching = false;
  bool is_closed = false;

 private:
  void take(const Receiver::Datagram& datagram);
  void deliver(const Message& message);
  bool deliver_to_request(const Message& message);
  bool deliver_to_subscribers(const Message& message);
  void tell_loss(std::uint64_t lost);
  void expire();
  void set_timer();
  Result<bool> step();

  Receiver receiver_;
  Callbacks<Subscriber> subscribers_;
  Callbacks<Pending> requests_;
  Fd timer_;
  std::optional<Deadline> timer_set_for_;
  std::uint64_t next_key_ = 1;
  std::uint32_t next_seq_ = 0;
};

}  // namespace dmaflow::connector::detail
