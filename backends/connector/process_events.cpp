#include <dmaflow/process_events.hpp>

#include "cancellable.hpp"
#include "process_control.hpp"
#include "process_decode.hpp"
#include "receiver.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <linux/connector.h>
#include <linux/netlink.h>
#include <poll.h>

namespace dmaflow::connector {
namespace {

constexpr auto all_events = static_cast<std::uint32_t>(ProcessEventMask::all);

}  // namespace

struct ProcessEvents::Impl {
  Impl(Socket opened, std::size_t batch) : socket(std::move(opened)), receiver(batch, slot_bytes, true) {}

  Result<void> prepare(std::uint32_t receive_buffer);
  Result<void> start(ProcessEventsOptions::Filter wanted, Deadline deadline);
  /// Attaches a BPF program if not all events are wanted.
  Result<void> filter_here();
  /// Sends LISTEN. Returns the errno of the kernel's answer, 0 for success; nullopt if it does not answer.
  Result<std::optional<int>> listen(Listen form, Deadline deadline);
  Result<std::optional<int>> find_answer(std::uint32_t ack, Deadline patience);
  void say_ignore() noexcept;
  /// Makes one step of the receiver, once the last datagrams are used up. Returns whether it got anything.
  Result<bool> fill();
  bool next_of_batch(ProcessEvent& event) noexcept;
  [[nodiscard]] const std::byte* event_in(std::size_t index) const noexcept;
  const std::byte* event_in_any(std::size_t index) noexcept;

  // An event has 76 bytes; longer messages of other senders in the group are cut, and they are rejected anyway.
  static constexpr std::size_t slot_bytes = 128;

  Socket socket;
  Receiver receiver;
  ReceiveBuffer buffer;
  Counters counters;
  Filter filter = Filter::none;
  std::uint32_t mask = 0;
  bool must_say_ignore = false;
  std::size_t at = 0;
  std::size_t count = 0;
  std::uint32_t lost = 0;
  bool is_last = false;    // the queue was empty after this read: poll() before the next one
  bool ends_here = false;  // take() ends after this batch instead of reading more
};

Result<bool> ProcessEvents::Impl::fill() {
  const auto step = receiver.step(socket.poll_fd());
  counters.receive_calls = receiver.calls();
  if (!step) return std::unexpected(step.error());
  at = 0;
  count = step->count;
  lost = step->lost;
  is_last = step->is_last;
  ends_here = false;
  return step->got != Receiver::Got::nothing;
}

namespace {

/// What precedes an event as the kernel sends it: one nlmsghdr with one cn_msg. seq, ack and flags may have any value.
struct EventHead {
  nlmsghdr netlink;
  cb_id id;
  __u32 seq;
  __u32 ack;
  __u16 length;
  __u16 flags;
};
static_assert(sizeof(EventHead) == sizeof(nlmsghdr) + sizeof(cn_msg));

}  // namespace

/// Nearly every datagram: checked without parsing its messages one by one.
inline const std::byte* ProcessEvents::Impl::event_in(std::size_t index) const noexcept {
  constexpr std::size_t size = sizeof(EventHead) + event_bytes;
  const std::byte* datagram = receiver.from_kernel(index, size);
  if (datagram == nullptr) return nullptr;
  EventHead head;  // NOLINT(cppcoreguidelines-pro-type-member-init): copied over
  std::memcpy(&head, datagram, sizeof head);
  const bool is_event = head.netlink.nlmsg_len == size && head.length == event_bytes &&
                        head.id.idx == ids::process.idx && head.id.val == ids::process.val;
  return is_event ? datagram + sizeof head : nullptr;
}

/// Any other datagram: another program's, a later kernel's with longer events, or a malformed one.
const std::byte* ProcessEvents::Impl::event_in_any(std::size_t index) noexcept {
  const auto datagram = receiver.datagram(index);
  if (!datagram.origin.is_kernel()) {
    ++counters.foreign;
    return nullptr;
  }
  MessageReader reader(datagram.bytes, datagram.origin, datagram.is_cut);
  const auto message = reader.next();
  if (message && message->id == ids::process && message->payload.size() >= event_bytes) return message->payload.data();
  ++counters.malformed;
  return nullptr;
}

bool ProcessEvents::Impl::next_of_batch(ProcessEvent& event) noexcept {
  if (lost > 0) {
    counters.lost += lost;
    event = {.what = Lost{std::exchange(lost, 0)}};
    return true;
  }
  while (at < count) {
    const std::size_t index = at++;
    const std::byte* payload = event_in(index);
    if (payload == nullptr) payload = event_in_any(index);
    if (payload == nullptr) continue;
    const std::uint32_t what = decode(payload, event);
    // Events that were not requested: those from before the filter was attached, and the answers to control messages,
    // which all listeners receive.
    if (what == 0 || ((what & all_events) != 0 && (what & mask) == 0)) continue;
    ++counters.events;
    return true;
  }
  return false;
}

namespace {

Result<void> check(const ProcessEventsOptions& options) {
  const auto mask = static_cast<std::uint32_t>(options.events);
  if (mask == 0 || (mask & ~all_events) != 0) {
    return std::unexpected(
        failure(EINVAL, "open").detail("the event mask 0x%x names none, or some there are not", mask));
  }
  if (options.batch < 1 || options.batch > 1024) {
    return std::unexpected(failure(EINVAL, "open").detail("batch is %zu, 1 to 1024 allowed", options.batch));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<ProcessEvents>> ProcessEvents::open(const ProcessEventsOptions& options, Deadline deadline) {
  if (auto checked = check(options); !checked) return std::unexpected(checked.error());
  auto socket = Socket::open();
  if (!socket) return std::unexpected(socket.error());
  if (auto joined = socket->join(ids::process.idx); !joined) return std::unexpected(joined.error());
  Fd fd = socket->release();
  return adopt(fd, false, options, deadline);
}

Result<std::unique_ptr<ProcessEvents>> ProcessEvents::adopt(Fd& fd, bool is_listening,
                                                            const ProcessEventsOptions& options, Deadline deadline) {
  if (auto checked = check(options); !checked) return std::unexpected(checked.error());
  auto socket = Socket::adopt(fd);
  if (!socket) return std::unexpected(socket.error());
  auto impl = std::make_unique<Impl>(std::move(*socket), options.batch);
  impl->mask = static_cast<std::uint32_t>(options.events);
  if (auto prepared = impl->prepare(options.receive_buffer); !prepared) {
    fd = impl->socket.release();
    return std::unexpected(prepared.error());
  }
  const auto started = is_listening ? impl->filter_here() : impl->start(options.filter, deadline);
  if (!started) {
    impl->say_ignore();
    fd = impl->socket.release();
    return std::unexpected(started.error());
  }
  return std::unique_ptr<ProcessEvents>(new ProcessEvents(std::move(impl)));
}

ProcessEvents::ProcessEvents(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
ProcessEvents::~ProcessEvents() { impl_->say_ignore(); }

// --- Starting --------------------------------------------------------------------------------------------------------

Result<void> ProcessEvents::Impl::prepare(std::uint32_t receive_buffer) {
  if (receive_buffer > 0) {
    const auto set = socket.set_receive_buffer(receive_buffer);
    if (!set) return std::unexpected(set.error());
    buffer = *set;
  } else {
    const auto bytes = socket.receive_buffer();
    if (!bytes) return std::unexpected(bytes.error());
    buffer = {.bytes = *bytes, .is_as_asked = true};
  }
  return receiver.begin(socket.poll_fd());
}

Result<void> ProcessEvents::Impl::filter_here() {
  if (mask == static_cast<std::uint32_t>(ProcessEventMask::all)) return {};
  filter = Filter::bpf;
  return socket.set_filter(event_filter(mask));
}

Result<void> ProcessEvents::Impl::start(ProcessEventsOptions::Filter wanted, Deadline deadline) {
  const bool is_all = mask == static_cast<std::uint32_t>(ProcessEventMask::all);
  if (wanted == ProcessEventsOptions::Filter::automatic) {
    // Eight bytes with no mask: kernel 6.6 and later take them as all events and answer, earlier ones do neither.
    const auto answer = listen(Listen::with_mask, deadline);
    if (!answer) return std::unexpected(answer.error());
    if (*answer) {
      if (**answer != 0) return std::unexpected(refused(**answer));
      must_say_ignore = true;
      if (is_all) return {};
      // This LISTEN is not answered: the answer is an event that the mask filters out.
      filter = Filter::kernel;
      return send_control(socket.poll_fd(), control_of(Listen::with_mask, mask), 0);
    }
  }
  if (auto filtered = filter_here(); !filtered) return filtered;
  // Before kernel 6.6 listeners are only counted, and the kernel sends nothing while there are none. A program that
  // sent IGNORE once too often has made the count negative: then more than one LISTEN is needed.
  constexpr int most_tries = 4;
  for (int i = 0; i < most_tries; ++i) {
    const auto answer = listen(Listen::bare, deadline);
    if (!answer) return std::unexpected(answer.error());
    if (*answer && **answer != 0) return std::unexpected(refused(**answer));
    must_say_ignore = answer->has_value();
    if (must_say_ignore) return {};
    if (const Error silence = why_no_answer(); silence.code() != ETIMEDOUT) return std::unexpected(silence);
  }
  return std::unexpected(why_no_answer());
}

Result<std::optional<int>> ProcessEvents::Impl::listen(Listen form, Deadline deadline) {
  while (true) {
    const std::uint32_t ack = random_ack();
    if (auto sent = send_control(socket.poll_fd(), control_of(form, 0), ack); !sent) {
      return std::unexpected(sent.error());
    }
    // The kernel answers before send() returns. The answer is waited for anyway, but not for long.
    const Deadline patience =
        Deadline::at(std::min(deadline.time(), Deadline::after(std::chrono::milliseconds(100)).time()));
    const auto answer = find_answer(ack + 1, patience);
    if (!answer) return std::unexpected(answer.error());
    // If messages were lost, the answer may have been among them. Messages lost before the answer do not belong to this
    // stream.
    const bool may_be_lost = std::exchange(lost, 0) > 0;
    if (*answer || !may_be_lost) return answer;
    if (deadline.remaining() == Deadline::Clock::duration::zero()) {
      return std::unexpected(failure(ETIMEDOUT, "LISTEN").detail("so many events are lost that the answer is too"));
    }
  }
}

Result<std::optional<int>> ProcessEvents::Impl::find_answer(std::uint32_t ack, Deadline patience) {
  while (true) {
    // Messages before the answer were sent before we listened.
    while (at < count) {
      const auto datagram = receiver.datagram(at++);
      if (const auto answer = answer_in(datagram, ack)) return answer;
    }
    const bool has_lost = lost > 0;
    const auto filled = fill();
    if (!filled) return std::unexpected(filled.error());
    if (has_lost && lost == 0) lost = 1;  // remembered for listen()
    if (*filled && patience.remaining() > Deadline::Clock::duration::zero()) continue;
    if (*filled && at < count) continue;
    const int ready = sys::wait(socket.poll_fd(), POLLIN, patience);
    if (ready < 0) return std::unexpected(failure(ready, "LISTEN"));
    if (ready == 0) return std::nullopt;
  }
}

void ProcessEvents::Impl::say_ignore() noexcept {
  // Exactly once: before kernel 6.6, one too many silences all listeners on the machine.
  if (std::exchange(must_say_ignore, false)) (void)send_control(socket.poll_fd(), ignore_control(), 0);
}

// --- The stream ------------------------------------------------------------------------------------------------------

Result<std::optional<ProcessEvent>> ProcessEvents::take() {
  Result<std::optional<ProcessEvent>> item(std::in_place, std::in_place);
  while (!impl_->next_of_batch(**item)) {
    if (std::exchange(impl_->ends_here, false)) {
      item->reset();
      break;
    }
    const auto filled = impl_->fill();
    if (!filled) {
      item = std::unexpected(filled.error());
      break;
    }
    if (!*filled) {
      item->reset();
      break;
    }
  }
  return item;
}

Result<ProcessEvent> ProcessEvents::wait(Deadline deadline, const Cancel* cancel) {
  ProcessEvent event;
  while (true) {
    if (impl_->next_of_batch(event)) return event;
    if (!impl_->is_last) {
      const auto filled = impl_->fill();
      if (!filled) return std::unexpected(filled.error());
      if (*filled) continue;
    }
    const int ready = dmaflow::detail::wait(poll_fd(), POLLIN, deadline, cancel);
    if (ready < 0) return std::unexpected(failure(ready, "wait"));
    if (ready == 0) return std::unexpected(failure(ETIMEDOUT, "wait").detail("no process event"));
    impl_->is_last = false;
  }
}

Result<void> ProcessEvents::dispatch(short /*revents*/) {
  if (impl_->lost > 0 || impl_->at < impl_->count) return {};
  const auto filled = impl_->fill();
  if (!filled) return std::unexpected(filled.error());
  impl_->ends_here = impl_->is_last;
  return {};
}

ProcessEvents::Filter ProcessEvents::filter() const noexcept { return impl_->filter; }
ReceiveBuffer ProcessEvents::receive_buffer() const noexcept { return impl_->buffer; }
ProcessEvents::Counters ProcessEvents::counters() const noexcept { return impl_->counters; }
Result<std::uint32_t> ProcessEvents::drops() const { return impl_->socket.drops(); }
int ProcessEvents::poll_fd() const noexcept { return impl_->socket.poll_fd(); }
short ProcessEvents::poll_events() const noexcept { return POLLIN; }

}  // namespace dmaflow::connector
