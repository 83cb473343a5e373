#include "core.hpp"

#include "sending.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>

#include <poll.h>

namespace dmaflow::connector::detail {
namespace {

constexpr int most_batches = 64;  // per dispatch(), so that the loop can serve other objects

}  // namespace

Core::Core(Socket opened, const ClientOptions& chosen)
    : socket(std::move(opened)), options(chosen), receiver_(chosen.batch, chosen.datagram_bytes) {}

Result<void> Core::prepare() {
  if (options.receive_buffer > 0) {
    const auto set = socket.set_receive_buffer(options.receive_buffer);
    if (!set) return std::unexpected(set.error());
    buffer = *set;
  } else {
    const auto bytes = socket.receive_buffer();
    if (!bytes) return std::unexpected(bytes.error());
    buffer = {.bytes = *bytes, .is_as_asked = true};
  }
  if (auto begun = receiver_.begin(socket.poll_fd()); !begun) return begun;
  if (sys::random(&next_seq_, sizeof next_seq_) < 0) next_seq_ = 1;

  const int waiting = sys::epoll_create();
  if (waiting < 0) return std::unexpected(failure(waiting, "epoll_create1"));
  epoll = Fd::adopt(waiting);
  const int timer = sys::timerfd_create();
  if (timer < 0) return std::unexpected(failure(timer, "timerfd_create"));
  timer_ = Fd::adopt(timer);
  for (const int fd : {socket.poll_fd(), timer_.get()}) {
    const int added = sys::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, EPOLLIN, static_cast<std::uint64_t>(fd));
    if (added < 0) return std::unexpected(failure(added, "epoll_ctl"));
  }
  return {};
}

// --- Outgoing messages -----------------------------------------------------------------------------------------------

Result<std::size_t> Core::send(std::span<const Outgoing> messages) const {
  return send_messages(socket.poll_fd(), messages);
}

Result<Subscription> Core::request(const Outgoing& message, MatchFunction matcher, Deadline deadline,
                                   ReplyHandler handler) {
  Outgoing numbered = message;
  numbered.numbers.seq = ++next_seq_;
  // 1-wire distinguishes data from status by the ack, so the ack must be neither the seq nor the one after it.
  while (numbered.numbers.ack - numbered.numbers.seq < 2 || numbered.numbers.ack == 0) {
    if (sys::random(&numbered.numbers.ack, sizeof numbered.numbers.ack) < 0) numbered.numbers.ack = ~next_seq_;
  }
  const std::uint64_t key = next_key_++;
  // Added before it is sent: many answers arrive before send() returns.
  requests_.add(key, {.sent = {message.id, numbered.numbers.seq, numbered.numbers.ack},
                      .matcher = std::move(matcher),
                      .deadline = deadline,
                      .handler = std::move(handler)});
  if (const auto sent = send({&numbered, 1}); !sent) {
    requests_.remove(key);
    return std::unexpected(sent.error());
  }
  set_timer();
  return Subscription(weak_from_this(), key);
}

// --- Tokens ----------------------------------------------------------------------------------------------------------

void Core::close() noexcept {
  is_closed = true;
  epoll.reset();
  timer_.reset();
  socket = {};
}

Subscription Core::subscribe(CbId id, TypedHandler handler) {
  const std::uint64_t key = next_key_++;
  subscribers_.add(key, {.id = id, .handler = std::move(handler)});
  return {weak_from_this(), key};
}

void Core::end(std::uint64_t key) noexcept {
  subscribers_.remove(key);
  requests_.remove(key);
}

bool Core::is_active(std::uint64_t key) const noexcept {
  return !is_closed && (subscribers_.contains(key) || requests_.contains(key));
}

// --- Incoming messages -----------------------------------------------------------------------------------------------

Result<void> Core::dispatch() {
  if (is_dispatching) return std::unexpected(failure(EDEADLK, "dispatch").detail("called from a callback"));
  is_dispatching = true;
  Result<void> outcome;
  for (int i = 0; i < most_batches && !is_closed; ++i) {
    const auto has_more = step();
    if (!has_more) outcome = std::unexpected(has_more.error());
    if (!has_more || !*has_more) break;
  }
  if (!is_closed) expire();
  if (!is_closed) set_timer();
  is_dispatching = false;
  return outcome;
}

Result<bool> Core::step() {
  const auto step = receiver_.step(socket.poll_fd());
  counters.receive_calls = receiver_.calls();
  if (!step) return std::unexpected(step.error());
  if (step->got == Receiver::Got::nothing) return false;
  if (step->got == Receiver::Got::loss) {
    if (step->lost > 0) tell_loss(step->lost);
    return true;
  }
  for (std::size_t i = 0; i < step->count && !is_closed; ++i) take(receiver_.datagram(i));
  return !step->is_last;
}

void Core::take(const Receiver::Datagram& datagram) {
  ++counters.datagrams;
  if (!datagram.origin.is_kernel() && !options.accept_programs) {
    ++counters.foreign;
    return;
  }
  MessageReader reader(datagram.bytes, datagram.origin, datagram.is_cut);
  while (!is_closed) {
    const auto message = reader.next();
    if (!message) break;
    ++counters.messages;
    deliver(*message);
  }
  if (reader.end() == MessageReader::End::truncated) ++counters.truncated;
  if (reader.end() == MessageReader::End::malformed || datagram.bytes.empty()) ++counters.malformed;
}

void Core::deliver(const Message& message) {
  if (deliver_to_request(message) || is_closed) return;
  if (deliver_to_subscribers(message) || is_closed) return;
  ++counters.unhandled;
  if (default_handler) default_handler(message);
}

bool Core::deliver_to_request(const Message& message) {
  return requests_.visit([&](std::uint64_t key, Pending& pending) {
    if (is_closed) return true;
    const Match match = pending.matcher(pending.sent, message);
    if (match == Match::no) return false;
    const bool is_last = match == Match::last;
    if (is_last) requests_.remove(key);
    pending.handler(
        {.kind = is_last ? Reply::Kind::last : Reply::Kind::part, .message = message, .lost = pending.lost});
    return true;
  });
}

bool Core::deliver_to_subscribers(const Message& message) {
  bool is_taken = false;
  subscribers_.visit([&](std::uint64_t, Subscriber& subscriber) {
    if (is_closed) return true;
    if (subscriber.id != message.id) return false;
    if (subscriber.handler(message)) {
      is_taken = true;
    } else {
      ++counters.undecodable;
    }
    return false;
  });
  return is_taken;
}

void Core::tell_loss(std::uint64_t lost) {
  counters.lost += lost;
  requests_.visit([&](std::uint64_t, Pending& pending) {
    if (is_closed) return true;
    pending.lost += lost;
    pending.handler({.kind = Reply::Kind::lost, .message = {}, .lost = pending.lost});
    return false;
  });
  if (!is_closed && loss_handler) loss_handler(lost);
}

// --- Deadlines -------------------------------------------------------------------------------------------------------

void Core::expire() {
  if (requests_.is_empty()) return;
  const auto now = Deadline::Clock::now();
  requests_.visit([&](std::uint64_t key, Pending& pending) {
    if (is_closed) return true;
    if (pending.deadline.time() > now) return false;
    requests_.remove(key);
    pending.handler({.kind = Reply::Kind::timed_out, .message = {}, .lost = pending.lost});
    return false;
  });
}

void Core::set_timer() {
  std::optional<Deadline> first;
  requests_.visit([&](std::uint64_t, const Pending& pending) {
    if (!first || pending.deadline.time() < first->time()) first = pending.deadline;
    return false;
  });
  const auto time_of = [](const std::optional<Deadline>& deadline) {
    return deadline ? deadline->time() : Deadline::Clock::time_point::max();
  };
  if (time_of(first) == time_of(timer_set_for_)) return;
  sys::timerfd_set(timer_.get(), first ? &*first : nullptr);
  timer_set_for_ = first;
}

}  // namespace dmaflow::connector::detail
