// Questions and answers over the connector: which reply belongs to which request, and how a question is answered.
//
// Every protocol on the connector has its own rule, so the rule is a small type: a Matcher for programs that ask the
// kernel, an AnswerRule for programs that the kernel asks. The rules of the kernel's own protocols are here; a program
// may add its own.
#pragma once

#include <dmaflow/connector_message.hpp>

#include <concepts>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace dmaflow::connector {

/// A request as it was sent.
struct Sent {
  CbId id{};
  std::uint32_t seq = 0;
  std::uint32_t ack = 0;
};

/// Whether a message answers a request.
enum class Match : std::uint8_t {
  no,
  part,  ///< it does, and more may follow
  last,  ///< it does, and the request is over
};

template <typename M>
concept Matcher = requires(M& matcher, const Sent& request, const Message& message) {
  { matcher(request, message) } -> std::same_as<Match>;
};

namespace match {

/// The documented protocol: the request's seq, and its ack plus one. Anything else is a separate message.
struct Documented {
  Match operator()(const Sent& request, const Message& message) const noexcept;
};

/// What cn_proc answers to LISTEN and IGNORE: an event NONE with the request's ack plus one. It goes to all members of
/// the group, and its seq is meaningless.
struct ProcessControl {
  Match operator()(const Sent& request, const Message& message) const noexcept;
};

/// 1-wire: data has the request's seq and seq + 1 as ack; a status has the request's seq and ack unchanged, and comes
/// after the data. @p statuses: how many are to come, one for each command; 0 for LIST_MASTERS, which is answered only
/// by data.
struct W1 {
  unsigned statuses = 1;
  Match operator()(const Sent& request, const Message& message) noexcept;
};

/// dm-log-userspace, for who plays the kernel: `seq` is the one in the dm_ulog_request, and so in the answer's payload;
/// an empty answer with that seq is an error, its ack the errno.
struct DmLog {
  std::uint32_t seq = 0;
  Match operator()(const Sent& request, const Message& message) const noexcept;
};

/// uvesafb and v86d, for who plays the kernel: the same seq and the same ack.
struct SameNumbers {
  Match operator()(const Sent& request, const Message& message) const noexcept;
};

}  // namespace match

/// What a request reports to its handler.
struct Reply {
  enum class Kind : std::uint8_t {
    part,  ///< a reply; more may follow
    last,  ///< a reply; the request is over
    lost,  ///< messages were lost, and the reply may have been among them. The request continues until its deadline
    timed_out,  ///< the deadline has come; the request is over. This is a normal outcome: the kernel ignores requests
                ///< that it does not accept
  };
  Kind kind = Kind::last;
  Message message{};       ///< of part and last
  std::uint64_t lost = 0;  ///< messages lost since the request was sent
};

/// The numbers of an answer.
struct Numbers {
  std::uint32_t seq = 0;
  std::uint32_t ack = 0;
};

/// How questions from the kernel are answered, in two static functions: the numbers of an answer, and those of a
/// refusal (an empty message) with a positive errno, or nothing where the protocol has none.
template <typename R>
concept AnswerRule = requires(const Message& question) {
  { R::answer(question) } -> std::same_as<Numbers>;
  { R::refusal(question, 1) } -> std::same_as<std::optional<Numbers>>;
};

namespace answer {

/// The documented protocol: the same seq, ack plus one.
struct Documented {
  static Numbers answer(const Message& question) noexcept { return {question.seq, question.ack + 1}; }
  static std::optional<Numbers> refusal(const Message& /*question*/, int /*error*/) noexcept { return std::nullopt; }
};

/// dm-log-userspace: what counts is the seq in the payload, which is the caller's to copy; a refusal has the errno as
/// ack.
struct DmLog {
  static Numbers answer(const Message& question) noexcept { return {question.seq, 0}; }
  static std::optional<Numbers> refusal(const Message& question, int error) noexcept {
    return Numbers{question.seq, static_cast<std::uint32_t>(error)};
  }
};

/// uvesafb (v86d answers): the same seq and the same ack.
struct SameNumbers {
  static Numbers answer(const Message& question) noexcept { return {question.seq, question.ack}; }
  static std::optional<Numbers> refusal(const Message& /*question*/, int /*error*/) noexcept { return std::nullopt; }
};

}  // namespace answer

}  // namespace dmaflow::connector
