#include <dmaflow/connector_message.hpp>

#include <algorithm>

#include <linux/connector.h>
#include <linux/netlink.h>

namespace dmaflow::connector {
namespace {

/// cn_msg without its data: an array of unknown size cannot be a member.
struct MessageHead {
  cb_id id;
  __u32 seq;
  __u32 ack;
  __u16 len;
  __u16 flags;
};
static_assert(sizeof(MessageHead) == sizeof(cn_msg));

}  // namespace

void MessageReader::stop(bool is_short) noexcept {
  end_ = is_short && is_cut_ ? End::truncated : End::malformed;
  rest_ = {};
  netlink_ = {};
}

bool MessageReader::enter_next() noexcept {
  // Netlink pads each message to four bytes.
  if (rest_.size() < NLMSG_ALIGNTO && !is_cut_) rest_ = {};
  if (rest_.empty()) {
    if (is_cut_) end_ = End::truncated;
    return false;
  }
  const auto header = read_at<nlmsghdr>(rest_);
  if (!header) {
    stop(true);
    return false;
  }
  if (header->nlmsg_len < sizeof(nlmsghdr) + sizeof(cn_msg)) {
    stop(false);
    return false;
  }
  const bool is_short = header->nlmsg_len > rest_.size();
  if (is_short && !is_cut_) {
    stop(false);
    return false;
  }
  const std::size_t length = std::min<std::size_t>(header->nlmsg_len, rest_.size());
  netlink_ = rest_.subspan(sizeof(nlmsghdr), length - sizeof(nlmsghdr));
  rest_ = rest_.subspan(std::min(rest_.size(), std::size_t{NLMSG_ALIGN(length)}));
  return true;
}

std::optional<Message> MessageReader::next() noexcept {
  if (netlink_.empty() && !enter_next()) return std::nullopt;
  // cn_msg follows cn_msg without padding.
  const auto header = read_at<MessageHead>(netlink_);
  if (!header || header->len > netlink_.size() - sizeof(cn_msg)) {
    stop(true);
    return std::nullopt;
  }
  const Message message{.id = {header->id.idx, header->id.val},
                        .seq = header->seq,
                        .ack = header->ack,
                        .flags = header->flags,
                        .payload = netlink_.subspan(sizeof(cn_msg), header->len),
                        .origin = origin_};
  netlink_ = netlink_.subspan(sizeof(cn_msg) + header->len);
  return message;
}

}  // namespace dmaflow::connector
