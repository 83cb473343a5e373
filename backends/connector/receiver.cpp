#include "receiver.hpp"

#include "sys/sys.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>

namespace dmaflow::connector {

Receiver::Receiver(std::size_t slots, std::size_t slot_bytes, bool is_uniform)
    : bytes_(std::make_unique_for_overwrite<std::byte[]>(slots * slot_bytes)),
      slot_bytes_(slot_bytes),
      parts_(slots),
      addresses_(slots),
      headers_(slots),
      is_uniform_(is_uniform) {
  for (std::size_t i = 0; i < slots; ++i) {
    parts_[i] = {.iov_base = bytes_.get() + i * slot_bytes, .iov_len = slot_bytes};
    headers_[i].msg_hdr.msg_iov = &parts_[i];
    headers_[i].msg_hdr.msg_iovlen = 1;
    headers_[i].msg_hdr.msg_name = &addresses_[i];
  }
}

Result<void> Receiver::begin(int fd) {
  const auto info = memory_info(fd);
  if (!info) return std::unexpected(info.error());
  drops_seen_ = info->drops;
  return {};
}

int Receiver::receive(int fd, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) headers_[i].msg_hdr.msg_namelen = sizeof(sockaddr_nl);
  ++calls_;
  return sys::receive_many(fd, std::span(headers_).first(count));
}

Result<Receiver::Step> Receiver::step(int fd) noexcept {
  if (is_hole_ahead_ && before_hole_ == 0) return report_loss(fd);
  const std::size_t wanted = is_hole_ahead_ ? std::min(before_hole_, headers_.size()) : headers_.size();
  const int got = receive(fd, wanted);
  if (got == -ENOBUFS) return is_hole_ahead_ ? report_loss(fd) : begin_loss(fd);
  if (got == -EAGAIN || got == 0) {
    if (is_hole_ahead_) return report_loss(fd);
    return may_be_counted_late() ? look_again(fd) : Step{.is_last = true};
  }
  if (got < 0) return std::unexpected(failure(got, "recvmmsg"));
  const auto count = static_cast<std::size_t>(got);
  const bool is_empty = count < wanted;
  if (is_hole_ahead_) before_hole_ = is_empty ? 0 : before_hole_ - count;
  return Step{.got = Got::datagrams,
              .count = count,
              .lost = 0,
              .is_last = is_empty && !is_hole_ahead_ && !may_be_counted_late()};
}

Result<Receiver::Step> Receiver::report_loss(int fd) noexcept {
  is_hole_ahead_ = false;
  before_hole_ = 0;
  const auto info = memory_info(fd);
  if (!info) return std::unexpected(info.error());
  const std::uint32_t lost = info->drops - drops_seen_;
  drops_seen_ = info->drops;
  look_until_ = Deadline::Clock::now() + late;
  return Step{.got = Got::loss, .count = 0, .lost = lost, .is_last = false};
}

Result<Receiver::Step> Receiver::look_again(int fd) noexcept {
  if (Deadline::Clock::now() >= look_until_) look_until_ = {};
  const auto info = memory_info(fd);
  if (!info) return std::unexpected(info.error());
  if (info->drops == drops_seen_) return Step{};
  return report_loss(fd);
}

Result<Receiver::Step> Receiver::begin_loss(int fd) noexcept {
  is_hole_ahead_ = true;
  before_hole_ = 0;
  const auto before = memory_info(fd);
  if (!before) return std::unexpected(before.error());
  if (before->queued == 0) return report_loss(fd);
  if (size_of_each_ != 0 && before->queued % size_of_each_ == 0) {
    before_hole_ = before->queued / size_of_each_;
    return step(fd);
  }
  const int got = receive(fd, 1);
  if (got < 1) return report_loss(fd);
  const auto after = memory_info(fd);
  if (!after) return std::unexpected(after.error());
  // Otherwise the datagram just read was the last one, and others have arrived since.
  if (after->queued < before->queued) {
    const std::uint32_t each = before->queued - after->queued;
    before_hole_ = (after->queued + each - 1) / each;
    if (is_uniform_ && before->queued % each == 0) size_of_each_ = each;
  }
  return Step{.got = Got::datagrams, .count = 1, .lost = 0, .is_last = false};
}

Receiver::Datagram Receiver::datagram(std::size_t index) const noexcept {
  const mmsghdr& header = headers_[index];
  const sockaddr_nl& address = addresses_[index];
  const std::size_t length = std::min<std::size_t>(header.msg_len, slot_bytes_);
  const std::uint32_t groups = address.nl_groups;
  const auto group = groups == 0 ? 0U : static_cast<std::uint32_t>(std::countr_zero(groups)) + 1;
  return {.bytes = {bytes_.get() + index * slot_bytes_, length},
          .origin = {.port = address.nl_pid, .group = group},
          .is_cut = (header.msg_hdr.msg_flags & MSG_TRUNC) != 0};
}

}  // namespace dmaflow::connector
