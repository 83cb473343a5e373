// FunctionSink: hands each frame to a function of the program: analysis, an encoder, a toolkit's own surface.
#pragma once

#include <dmaflow/device.hpp>
#include <dmaflow/function.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dmaflow {

struct FunctionSinkOptions {
  std::string name = "function";       ///< for messages
  std::vector<PixelFormat> formats{};  ///< those it takes; empty = any
  /// What the function needs from the buffers. Default: cached memory, for a CPU that reads (CpuAccess).
  Needs needs{.constraints = {.cached = true}, .usage = {.cpu = true}, .modifiers = {Modifier::linear()}};
  /// The number of frames that the program holds at once, including the one just passed to the function: 1 to 32. That
  /// many additional buffers are made; a program that holds more keeps the source waiting.
  std::uint32_t max_held = 1;
};

/// A sink for Pipeline::connect(). One thread: the loop's.
class FunctionSink final : public Sink {
 public:
  /// Gets each frame once its fence has signalled, in the loop's thread; frames whose fence failed are dropped. For
  /// implicit fences (FrameInfo::has_implicit_fences) CpuAccess waits. It may keep the frame and release it in any
  /// thread. An error that it returns ends the run.
  using Callback = Function<Result<void>(Frame)>;

  /// Errors: EINVAL (no function; max_held out of range).
  static Result<std::unique_ptr<FunctionSink>> create(Callback callback, FunctionSinkOptions options = {});

  /// The stream it was configured for.
  [[nodiscard]] const StreamConfig& config() const noexcept { return config_; }

  [[nodiscard]] std::string_view name() const noexcept override { return options_.name; }
  /// Errors: EINVAL (a format that is not among options.formats).
  [[nodiscard]] Result<void> check_input(const StreamConfig& config) override;
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override;
  [[nodiscard]] Needs needs() const override { return options_.needs; }
  /// Accepts any buffer: the function itself must check whether it can use it.
  [[nodiscard]] Result<void> import(const Buffer& /*buffer*/) override { return {}; }
  [[nodiscard]] std::uint32_t max_held() const noexcept override {
    return options_.max_held + 1;
  }  // and one whose fence it waits for
  [[nodiscard]] std::uint64_t dropped() const noexcept override { return dropped_; }

  [[nodiscard]] int poll_fd() const noexcept override { return -1; }
  [[nodiscard]] short poll_events() const noexcept override { return 0; }
  [[nodiscard]] int waiting_fence() const noexcept override { return waiting_.ready().poll_fd(); }
  [[nodiscard]] Result<void> dispatch(short /*revents*/) override { return flush(); }

  [[nodiscard]] bool ready() const noexcept override { return !waiting_; }
  [[nodiscard]] Result<Frame> accept(Frame frame) override;
  [[nodiscard]] Result<void> flush() override;
  /// None: no frames are presented.
  [[nodiscard]] std::size_t take_presented(std::span<Presentation> /*out*/) noexcept override { return 0; }
  Result<void> drain(Deadline deadline, const Cancel* cancel = nullptr) override;
  Result<void> stop() noexcept override;

 private:
  FunctionSink(Callback callback, FunctionSinkOptions options);

  Callback callback_;
  FunctionSinkOptions options_;
  StreamConfig config_;
  Frame waiting_;  // accepted, its fence not signalled yet
  std::uint64_t dropped_ = 0;
};

}  // namespace dmaflow
