"""DGL: prompts that see one frame and prompts that see all, made with the text's.

"DGL: Dynamic Global-Local Prompt Tuning for Text-Video Retrieval", AAAI 2024,
https://arxiv.org/abs/2401.10588. Two readings of ours are uncertain:

- All text prompts stand before the end token, where the embedding is read
  (:class:`PromptedCLIPText`). In the authors' code, the end token moves by 4, which is
  only the prompts before the words. Under the causal mask, nothing that is read would
  then see those behind.
- The paper gives no initialisation. Ours is normal, with standard deviation 0.02.
"""

import torch
from torch import Tensor, nn

from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS

from .prompt_tower import PromptTower, at_least_one, behind_cls, learned, slots
from .upt import UnifiedPrompter

__all__ = ['DGLCLIPViT']


class LinearPrompter(nn.Module):
    """Map the frame prompts of a block to its text prompts, with two linear layers.

    The arguments and the shapes are those of :class:`UnifiedPrompter`, with one set of
    prompts for all frames.
    """

    def __init__(
        self, depth: int, width: int, text_size: tuple[int, int], num_prompts: int
    ) -> None:
        super().__init__()
        blocks, narrow = text_size
        self.text_blocks = slots(blocks, depth)
        self.table = learned(depth, num_prompts, width)
        self.before = nn.Linear(width, narrow)
        self.behind = nn.Linear(width, narrow)

    def text(self) -> Tensor:
        """Return the text tower's prompts: (its depth, 2 P, its width)."""
        made = self.table[self.text_blocks]
        return torch.cat([self.before(made), self.behind(made)], dim=1)

    def frames(self) -> Tensor:
        """Return the video tower's prompts: (depth, 1, P, D)."""
        return self.table.unsqueeze(1)


@MODELS.register_module()
class DGLCLIPViT(PromptTower):
    """Prompt a frozen CLIP with local tokens in every block and global ones across all.

    (B, 3, T, H, W) -> (B, E). In a block, each frame attends to itself, its own local
    prompts and the global prompts. The global prompts attend to one another and to all
    frames, with the same frozen weights. Local prompts are new in every block, global
    prompts are carried through. The first of them is projected, instead of CLS. The
    text tower must be a :class:`PromptedCLIPText` with ``num_prompts=0``.

    Args:
        clip: config of the video tower.
        prompter: 'linear': all frames have the same local prompts, and two linear
            layers make the text prompts from them; or 'transformer': every frame has
            its own, made with the text prompts as in UPT.
        num_prompts: P, prompts of a frame, and of a text before and behind its words.
        num_global: G, global prompts.
        num_frames: frames with prompts of their own, for 'transformer'. Another number
            of frames takes them evenly from these.

    Raises:
        ConfigError: a number is less than 1, ``prompter`` is unknown, or the tower
            merges patches.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        prompter: str = 'linear',
        num_prompts: int = 4,
        num_global: int = 4,
        num_frames: int = 12,
    ) -> None:
        at_least_one(
            num_prompts=num_prompts, num_global=num_global, num_frames=num_frames
        )
        if prompter not in ('linear', 'transformer'):
            raise ConfigError(
                f"prompter={prompter!r} is unknown; use 'linear' or 'transformer'"
            )
        super().__init__(clip)
        sizes = self.depth, self.width, self.text_size, num_prompts
        self.prompter = (
            LinearPrompter(*sizes)
            if prompter == 'linear'
            else UnifiedPrompter(*sizes, num_frames)
        )
        self.global_prompts = learned(num_global, self.width)

    def text_prompts(self) -> Tensor:
        return self.prompter.text()

    def forward(self, video: Tensor) -> Tensor:
        """Embed a batch of clips: (B, 3, T, H, W) -> (B, E)."""
        x = self.embed(video)
        B, T = x.shape[:2]
        prompts = self.prompter.frames()
        own = slots(T, prompts.shape[1])
        across = self.global_prompts.expand(B, 1, -1, -1).to(x.dtype)  # (B, 1, G, D)
        for i in range(self.depth):
            frames = behind_cls(x, prompts[i, own])
            shared = self.seen_by_all(i, across, x)
            everything = torch.cat([shared, frames.flatten(1, 2).unsqueeze(1)], dim=2)
            if i == self.depth - 1:  # only the first global prompt is read
                across = across[:, :, :1]
            else:
                local = torch.cat([shared.expand(-1, T, -1, -1), frames], dim=2)
                x = self.run_block(i, x, local)
            across = self.run_block(i, across, everything)
        return self.project(across[:, 0, 0])

    def seen_by_all(self, i: int, across: Tensor, x: Tensor) -> Tensor:
        """Return the tokens that all others see in block ``i``.

        Args:
            across: the global prompts, (B, 1, G, D).
            x: the block's input without prompts, (B, T, 1 + N, D).
        Returns:
            the global prompts, and what a subclass puts beside them: (B, 1, G', D).
        """
        return across
