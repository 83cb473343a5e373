// record: writes 30 frames of a camera to the file named on the command line (clip.y4m: see it with ffplay clip.y4m).
#include <dmaflow/dmaflow.hpp>

#include <iostream>

int main(int count, char** arguments) try {
  const auto camera = dmaflow::v4l2::Camera::open().value();
  const auto file = dmaflow::FileSink::create(count > 1 ? arguments[1] : "clip.y4m", {.queue = 8}).value();
  const auto memory = dmaflow::open_system_memory().value();
  dmaflow::Pipeline pipeline;
  pipeline.offer(*memory);
  // A disk that is too slow costs the recording frames. BranchStats::dropped counts them.
  pipeline.connect(*camera, *file, "recorder", {.policy = dmaflow::Policy::drop_when_full}).value();
  pipeline.run({.frames = 30}).value();
  std::cout << file->written() << " frames written\n";
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
