// start_recording: shows a camera, and records the second of three seconds. The display loses no frame by that.
#include <dmaflow/dmaflow.hpp>

#include <iostream>
#include <thread>

int main(int count, char** arguments) try {
  const auto camera = dmaflow::v4l2::Camera::open().value();
  const auto card = dmaflow::kms::Device::open().value();
  const auto file = dmaflow::FileSink::create(count > 1 ? arguments[1] : "clip.raw").value();  // raw holds every format
  const auto tasks = dmaflow::TaskQueue::create().value();
  dmaflow::Pipeline pipeline;
  pipeline.connect(*camera, *card->output().value()->plane().value()).value();
  pipeline.watch(*tasks);
  pipeline.prepare({.spare_buffers = 9}).value();  // for what the recorder will hold

  std::thread user([&] {  // stands for somebody who presses buttons
    std::this_thread::sleep_for(std::chrono::seconds(1));
    tasks->post([&] {
      const auto added = pipeline.connect(*camera, *file, "recorder", {.policy = dmaflow::Policy::drop_when_full});
      if (!added) std::cerr << "error: " << added.error().message() << '\n';
    });
    std::this_thread::sleep_for(std::chrono::seconds(1));
    tasks->post([&] {
      const auto removed = pipeline.remove(*file, dmaflow::Deadline::after(std::chrono::milliseconds(500)));
      if (!removed) std::cerr << "error: " << removed.error().message() << '\n';
    });
  });
  const auto ended = pipeline.run({.duration = std::chrono::seconds(3)});
  user.join();
  ended.value();
  std::cout << pipeline.stats().streams[0].captured << " frames captured, " << file->written() << " recorded\n";
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
