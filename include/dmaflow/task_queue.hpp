// TaskQueue: runs functions in the loop's thread on behalf of other threads.
#pragma once

#include <dmaflow/device.hpp>
#include <dmaflow/function.hpp>

#include <memory>

namespace dmaflow {

/// Pass it to Pipeline::watch(): functions that any thread posts are then called in the loop's thread, between two
/// iterations, where they may change the pipeline: connect(), remove(), reconfigure(), stop(). Also useful for
/// functions that the loop itself calls, such as a sink's, which may not do so directly.
class TaskQueue final : public Pollable {
 public:
  /// Errors: EMFILE, ENFILE, ENOMEM (eventfd(2)).
  [[nodiscard]] static Result<std::unique_ptr<TaskQueue>> create();
  ~TaskQueue() override;

  /// From any thread while the queue exists, even before the loop runs. Functions are called in the order in which they
  /// were posted; one posted by a function of the queue is called in the next iteration. The function's own data is
  /// destroyed in the loop's thread, or with the queue. Allocates. An empty function is ignored.
  void post(Function<void()> task);

  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  [[nodiscard]] Result<void> dispatch(short revents) override;

 private:
  struct Impl;
  explicit TaskQueue(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow
