#include <dmaflow/connector_request.hpp>

#include <cstddef>

namespace dmaflow::connector::match {
namespace {

Match last_if(bool matches) noexcept { return matches ? Match::last : Match::no; }

}  // namespace

Match Documented::operator()(const Sent& request, const Message& message) const noexcept {
  return last_if(message.id == request.id && message.seq == request.seq && message.ack == request.ack + 1);
}

Match ProcessControl::operator()(const Sent& request, const Message& message) const noexcept {
  const auto what = read_at<std::uint32_t>(message.payload);
  return last_if(message.id == request.id && what == 0U && message.ack == request.ack + 1);
}

Match W1::operator()(const Sent& request, const Message& message) noexcept {
  if (message.id != request.id || message.seq != request.seq) return Match::no;
  // If both rules match, the message is taken as a status: waiting longer is the safe mistake.
  if (message.ack == request.ack) {
    if (statuses > 0) --statuses;
    return statuses == 0 ? Match::last : Match::part;
  }
  if (message.ack != request.seq + 1) return Match::no;
  return statuses == 0 ? Match::last : Match::part;
}

Match DmLog::operator()(const Sent& request, const Message& message) const noexcept {
  if (message.id != request.id) return Match::no;
  if (message.payload.empty()) return last_if(message.seq == seq);
  constexpr std::size_t offset_of_seq = 148;  // of dm_ulog_request in linux/dm-log-userspace.h
  return last_if(read_at<std::uint32_t>(message.payload, offset_of_seq) == seq);
}

Match SameNumbers::operator()(const Sent& request, const Message& message) const noexcept {
  return last_if(message.id == request.id && message.seq == request.seq && message.ack == request.ack);
}

}  // namespace dmaflow::connector::match
