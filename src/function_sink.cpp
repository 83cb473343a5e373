#include <dmaflow/function_sink.hpp>

#include "format_check.hpp"
#include "log.hpp"

#include <cerrno>
#include <utility>

namespace dmaflow {

FunctionSink::FunctionSink(Callback callback, FunctionSinkOptions options)
    : callback_(std::move(callback)), options_(std::move(options)) {}

Result<std::unique_ptr<FunctionSink>> FunctionSink::create(Callback callback, FunctionSinkOptions options) {
  const auto invalid = [&](const char* why) {
    return std::unexpected(Error::os(EINVAL, "FunctionSink::create", options.name).detail("%s", why));
  };
  if (!callback) return invalid("there is no function");
  if (options.max_held < 1 || options.max_held > 32) return invalid("max_held must be 1 to 32");
  return std::unique_ptr<FunctionSink>(new FunctionSink(std::move(callback), std::move(options)));
}

Result<void> FunctionSink::check_input(const StreamConfig& config) {
  return detail::check_format(config.layout.format, options_.formats, name());
}

Result<void> FunctionSink::set_input(const StreamConfig& config) {
  if (auto checked = check_input(config); !checked) return checked;
  config_ = config;
  return {};
}

Result<Frame> FunctionSink::accept(Frame frame) { return std::exchange(waiting_, std::move(frame)); }

Result<void> FunctionSink::flush() {
  if (!waiting_) return {};
  if (!waiting_.ready().is_null()) {
    const auto state = waiting_.ready().state();
    if (!state) return std::unexpected(state.error());
    if (*state == Fence::State::active) return {};
    if (*state == Fence::State::failed) {
      detail::log(LogLevel::warning, "%s: the fence of frame %llu failed: dropped", options_.name.c_str(),
                  static_cast<unsigned long long>(waiting_.info().sequence));
      ++dropped_;
      waiting_.release();
      return {};
    }
  }
  return callback_(std::move(waiting_));
}

Result<void> FunctionSink::drain(Deadline deadline, const Cancel* cancel) {
  if (!waiting_) return {};
  // flush() reports a fence that failed.
  const auto waited = waiting_.ready().wait(deadline, cancel);
  if (!waited && (waited.error().code() == ETIMEDOUT || waited.error().code() == ECANCELED)) return waited;
  return flush();
}

Result<void> FunctionSink::stop() noexcept {
  if (waiting_) ++dropped_;
  waiting_.release();
  return {};
}

}  // namespace dmaflow
