#include "cancellable.hpp"
#include "core.hpp"

#include <cerrno>

#include <poll.h>

namespace dmaflow::connector {

Client::Client(std::shared_ptr<detail::Core> core) noexcept : core_(std::move(core)) {}

Client::~Client() { core_->close(); }

Result<std::unique_ptr<Client>> Client::create(Socket socket, const ClientOptions& options) {
  auto core = std::make_shared<detail::Core>(std::move(socket), options);
  if (auto prepared = core->prepare(); !prepared) return std::unexpected(prepared.error());
  return std::unique_ptr<Client>(new Client(std::move(core)));
}

namespace {

Result<void> check(const ClientOptions& options) {
  constexpr std::size_t most_bytes = 1U << 20U;
  if (options.datagram_bytes < 36 || options.datagram_bytes > most_bytes) {
    return std::unexpected(
        failure(EINVAL, "open").detail("datagram_bytes is %zu, 36 to %zu allowed", options.datagram_bytes, most_bytes));
  }
  if (options.batch < 1 || options.batch > 1024) {
    return std::unexpected(failure(EINVAL, "open").detail("batch is %zu, 1 to 1024 allowed", options.batch));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Client>> Client::open(const ClientOptions& options) {
  if (auto checked = check(options); !checked) return std::unexpected(checked.error());
  auto socket = Socket::open();
  if (!socket) return std::unexpected(socket.error());
  return create(std::move(*socket), options);
}

Result<std::unique_ptr<Client>> Client::adopt(Fd& fd, const ClientOptions& options) {
  if (auto checked = check(options); !checked) return std::unexpected(checked.error());
  auto socket = Socket::adopt(fd);
  if (!socket) return std::unexpected(socket.error());
  auto core = std::make_shared<detail::Core>(std::move(*socket), options);
  if (auto prepared = core->prepare(); !prepared) {
    fd = core->socket.release();
    return std::unexpected(prepared.error());
  }
  return std::unique_ptr<Client>(new Client(std::move(core)));
}

Socket& Client::socket() noexcept { return core_->socket; }
ReceiveBuffer Client::receive_buffer() const noexcept { return core_->buffer; }
Counters Client::counters() const noexcept { return core_->counters; }
int Client::poll_fd() const noexcept { return core_->epoll.get(); }
short Client::poll_events() const noexcept { return POLLIN; }

Result<void> Client::dispatch(short /*revents*/) {
  const auto core = core_;  // a callback may destroy this object
  return core->dispatch();
}

Subscription Client::subscribe(CbId id, MessageHandler handler) {
  return core_->subscribe(id, [handler = std::move(handler)](const Message& message) mutable {
    handler(message);
    return true;
  });
}

Subscription Client::subscribe_typed(CbId id, TypedHandler handler) { return core_->subscribe(id, std::move(handler)); }

void Client::set_default_handler(MessageHandler handler) { core_->default_handler.set(std::move(handler)); }
void Client::set_loss_handler(LossHandler handler) { core_->loss_handler.set(std::move(handler)); }

Result<void> Client::send(const Outgoing& message) {
  const auto sent = core_->send({&message, 1});
  if (!sent) return std::unexpected(sent.error());
  return {};
}

Result<std::size_t> Client::send(std::span<const Outgoing> messages) { return core_->send(messages); }

Result<Subscription> Client::request_with(const Outgoing& message, MatchFunction matcher, Deadline deadline,
                                          ReplyHandler handler) {
  return core_->request(message, std::move(matcher), deadline, std::move(handler));
}

Result<std::vector<Client::Kept>> Client::ask_with(const Outgoing& message, MatchFunction matcher, Deadline deadline,
                                                   const Cancel* cancel) {
  const auto core = core_;
  if (core->is_dispatching) return std::unexpected(failure(EDEADLK, "ask").detail("called from a callback"));
  std::vector<Kept> parts;
  bool is_over = false;
  bool is_answered = false;
  std::uint64_t lost = 0;
  // The request has its own timer: it must not end before this function does.
  const auto token = core->request(message, std::move(matcher), deadline, [&](const Reply& reply) {
    lost = reply.lost;
    is_answered = reply.kind == Reply::Kind::last;
    is_over = is_answered || reply.kind == Reply::Kind::timed_out;
    if (!is_answered && reply.kind != Reply::Kind::part) return;
    Kept& kept =
        parts.emplace_back(reply.message, std::vector(reply.message.payload.begin(), reply.message.payload.end()));
    kept.message.payload = kept.bytes;
  });
  if (!token) return std::unexpected(token.error());
  while (true) {
    if (auto done = core->dispatch(); !done) return std::unexpected(done.error());
    if (is_over) break;
    if (core->is_closed) return std::unexpected(failure(ECANCELED, "ask").detail("the client is gone"));
    const int ready = dmaflow::detail::wait(core->epoll.get(), POLLIN, deadline, cancel);
    if (ready < 0) return std::unexpected(failure(ready, "ask"));
  }
  if (is_answered) return parts;
  Error error = failure(ETIMEDOUT, "ask");
  error.detail("no reply from %u.%u%s", message.id.idx, message.id.val,
               lost > 0 ? ": messages were lost meanwhile, and it may have been one of them"
                        : ": the kernel says nothing to what it does not know or does not like");
  return std::unexpected(error);
}

// --- Tokens ----------------------------------------------------------------------------------------------------------

Subscription& Subscription::operator=(Subscription&& other) noexcept {
  if (this != &other) {
    end();
    core_ = std::move(other.core_);
    key_ = std::exchange(other.key_, 0);
  }
  return *this;
}

void Subscription::end() noexcept {
  const auto core = std::exchange(core_, {}).lock();
  const auto key = std::exchange(key_, 0);
  if (core && key != 0) core->end(key);
}

bool Subscription::is_active() const noexcept {
  const auto core = core_.lock();
  return core && core->is_active(key_);
}

Result<void> Answerer::answer(std::span<const std::byte> payload) const {
  const auto core = core_.lock();
  if (!core || core->is_closed) return std::unexpected(failure(ENODEV, "answer").detail("the client is gone"));
  const Outgoing message{.id = question_.id, .payload = payload, .flags = 0, .numbers = numbers_};
  const auto sent = core->send({&message, 1});
  if (!sent) return std::unexpected(sent.error());
  return {};
}

Result<void> Answerer::refuse(int error) const {
  const auto core = core_.lock();
  if (!core || core->is_closed) return std::unexpected(failure(ENODEV, "refuse").detail("the client is gone"));
  const auto numbers = refusal_(question_, error);
  if (!numbers || error <= 0) {
    return std::unexpected(
        failure(numbers ? EINVAL : EOPNOTSUPP, "refuse")
            .detail(numbers ? "the error %d is no errno" : "errno %d: this protocol has no refusals", error));
  }
  const Outgoing message{.id = question_.id, .payload = {}, .flags = 0, .numbers = *numbers};
  const auto sent = core->send({&message, 1});
  if (!sent) return std::unexpected(sent.error());
  return {};
}

}  // namespace dmaflow::connector
