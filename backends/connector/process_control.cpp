#include "process_control.hpp"

#include "sending.hpp"
#include "sys/sys.hpp"
#include "uapi/cn_proc.hpp"

#include <cerrno>
#include <cstring>
#include <string_view>

#include <arpa/inet.h>
#include <fcntl.h>

namespace dmaflow::connector {
namespace {

/// The inode of one of our namespaces; 0 if it cannot be read. The initial namespaces have fixed numbers
/// (include/uapi/linux/nsfs.h; they were fixed long before it named them).
ino_t namespace_inode(const char* path) {
  const Fd file = Fd::adopt(sys::open(path, O_RDONLY));
  struct stat status{};
  if (!file || sys::fstat(file.get(), &status) < 0) return 0;
  return status.st_ino;
}
constexpr ino_t first_user_namespace = 0xEFFFFFFD;
constexpr ino_t first_pid_namespace = 0xEFFFFFFC;

/// Whether /proc/net/connector lists cn_proc; nullopt if it cannot be read.
std::optional<bool> has_process_events() {
  const Fd file = Fd::adopt(sys::open("/proc/net/connector", O_RDONLY));
  if (!file) return std::nullopt;
  char text[4096];
  const ssize_t size = sys::read(file.get(), text, sizeof text);
  if (size < 0) return std::nullopt;
  return std::string_view(text, static_cast<std::size_t>(size)).find("cn_proc") != std::string_view::npos;
}

}  // namespace

Control control_of(Listen form, std::uint32_t mask) noexcept {
  const uapi::ProcInput input{.mcast_op = PROC_CN_MCAST_LISTEN, .event_type = mask};
  Control control;
  control.size = form == Listen::with_mask ? sizeof input : sizeof input.mcast_op;
  std::memcpy(control.bytes.data(), &input, control.size);
  return control;
}

Control ignore_control() noexcept {
  const __u32 operation = PROC_CN_MCAST_IGNORE;
  Control control;
  control.size = sizeof operation;
  std::memcpy(control.bytes.data(), &operation, sizeof operation);
  return control;
}

std::uint32_t random_ack() noexcept {
  std::uint32_t ack = 0;
  sys::random(&ack, sizeof ack);
  return ack;
}

Result<void> send_control(int fd, const Control& control, std::uint32_t ack) {
  const Outgoing message{.id = ids::process,
                         .payload = std::span(control.bytes).first(control.size),
                         .flags = 0,
                         .numbers = {.seq = 0, .ack = ack}};
  const auto sent = send_messages(fd, {&message, 1});
  if (!sent) return std::unexpected(sent.error());
  return {};
}

std::optional<int> answer_in(const Receiver::Datagram& datagram, std::uint32_t ack) noexcept {
  if (!datagram.origin.is_kernel()) return std::nullopt;
  MessageReader reader(datagram.bytes, datagram.origin, datagram.is_cut);
  const auto message = reader.next();
  if (!message || message->id != ids::process || message->ack != ack) return std::nullopt;
  const auto what = read_at<std::uint32_t>(message->payload);
  const auto error = read_at<std::uint32_t>(message->payload, offsetof(proc_event, event_data));
  if (what != 0U || !error) return std::nullopt;
  return static_cast<int>(*error);
}

Error refused(int code) {
  Error error = failure(code, "LISTEN");
  if (code == EPERM) {
    error.detail(
        "process events need CAP_NET_ADMIN before kernel 6.6: run as root, or adopt a socket on which a broker "
        "with the privilege has sent LISTEN");
  }
  return error;
}

Error why_no_answer() {
  const ino_t user = namespace_inode("/proc/self/ns/user");
  const ino_t pid = namespace_inode("/proc/self/ns/pid");
  if (user != 0 && user != first_user_namespace) {
    return failure(EXDEV, "LISTEN")
        .detail(
            "this process is in a user namespace (a container?), and the kernel answers "
            "in the first one only: run outside it, or adopt a listening socket");
  }
  if (pid != 0 && pid != first_pid_namespace) {
    return failure(EXDEV, "LISTEN")
        .detail(
            "this process is in a pid namespace (a container?), and the kernel answers in "
            "the first one only: run outside it, or adopt a listening socket");
  }
  if (has_process_events() == false) {
    return failure(ENOPROTOOPT, "LISTEN").detail("this kernel has no process events: it needs CONFIG_PROC_EVENTS");
  }
  return failure(ETIMEDOUT, "LISTEN").detail("the kernel does not answer");
}

EventFilter::EventFilter(std::uint32_t mask) noexcept
    // BPF loads are in network byte order; the event is in the machine's.
    : program_{sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, 36}, sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 2, 0, 0},
               sock_filter{BPF_JMP | BPF_JSET | BPF_K, 1, 0, htonl(mask)}, sock_filter{BPF_RET | BPF_K, 0, 0, 0},
               sock_filter{BPF_RET | BPF_K, 0, 0, 0xffffffff}} {}

}  // namespace dmaflow::connector
